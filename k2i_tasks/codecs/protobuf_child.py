"""Runs the Protobuf compiler in a process of its own, within limits. A script, not imported.

A schema comes from outside: one that makes the compiler run away or crash ends this process alone.

Arguments: the compiler's own.
"""

from __future__ import annotations

import resource
import sys

#: Seconds of processor time; schemas of thousands of messages need less than one.
CPU_SECONDS = 30
#: Of any file that is written.
FILE_BYTES = 64 << 20
MEMORY_BYTES = 4 << 30


def main(arguments: list[str]) -> int:
    """The compiler's exit code."""
    # The first limit is told from a kill by somebody else, the second one would not be.
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    from grpc_tools import protoc

    return int(protoc.main(["protoc", *arguments]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A writer's Protobuf schema, with what it imports, to descriptors.

The text is compiled by Google's `protoc`, in a process of its own (`protobuf_child`) and a scratch
folder. Some clients register a file's descriptor in base 64 in place of its text; those are read
as such.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from google.protobuf import descriptor, descriptor_pb2, descriptor_pool
from google.protobuf.message import DecodeError as ProtobufError

from k2i_tasks.codecs.protobuf_known import KNOWN_FILES
from k2i_tasks.errors import Component, DecodeError, TransientError

#: Longest wait for the compiler, in seconds; its processor time has a limit of its own.
COMPILE_SECONDS = 60.0
#: Most of what the compiler says, and of what of it is told on.
_OUTPUT_BYTES = 1 << 16
_MESSAGE_CHARS = 300
_SCHEMA_BYTES = 1 << 26
_NAME_CHARS = 1_024
_PART = re.compile(r"[A-Za-z0-9_.+\-][A-Za-z0-9_.+\- ]{0,254}")
#: Lines that are not about what is wrong: warnings, and the log of the compiler's own library.
_ASIDE = re.compile(r"^\s*$|warning:|^WARNING: |^[DIWEF]\d{4} ")
#: Where some installations have the libraries of Python itself.
_ENVIRON = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_CHILD = Path(__file__).with_name("protobuf_child.py")


def compile_schema(text: str, references: Mapping[str, str]) -> descriptor.FileDescriptor:
    """The descriptor of the file `text`, in a pool of its own. Blocks on the compiler.

    Args:
        text: the file: its text, or its descriptor in base 64.
        references: import name -> such a file.

    Raises:
        DecodeError: `schema.invalid`, with the compiler's first message.
        TransientError: the compiler could not be run here and now.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="k2i-protobuf-") as folder:
            compiled = _compiled(Path(folder), text, references)
    except OSError as error:
        raise _not_now(f"cannot be run: {error}") from error
    pool = descriptor_pool.DescriptorPool()
    found = None
    try:
        for file in compiled.file:
            # The compiler writes what is imported first, so that the schema is the last.
            found = pool.AddSerializedFile(file.SerializeToString())
    except (TypeError, ValueError) as error:
        raise _invalid(f"Its descriptor cannot be used: {error}") from error
    assert found is not None
    return found


def _compiled(
    folder: Path, text: str, references: Mapping[str, str]
) -> descriptor_pb2.FileDescriptorSet:
    own, known, given = folder / "own", folder / "known", folder / "given.pb"
    for one in (own, known):
        one.mkdir()
    bundled = Path(str(resources.files("grpc_tools") / "_proto"))
    for name, known_text in KNOWN_FILES.items():
        _write(known, name, known_text)
    (known / "google").mkdir()
    (known / "google" / "type").symlink_to(_google_types(), target_is_directory=True)
    root = "schema.proto"
    while root in references or root in KNOWN_FILES:
        root = f"_{root}"
    binary = descriptor_pb2.FileDescriptorSet()
    for name, file in [*references.items(), (root, text)]:
        parsed = _parsed(file)
        if parsed is not None:
            parsed.name = name
            binary.file.append(parsed)
        elif not (bundled / _checked_name(name)).exists() and name not in KNOWN_FILES:
            _write(own, name, file)
    given.write_bytes(binary.SerializeToString())
    out = folder / "out.pb"
    paths = [f"--proto_path={one}" for one in (own, bundled, known)]
    options = [f"--descriptor_set_out={out}", "--include_imports"]
    if binary.file:
        options.append(f"--descriptor_set_in={given}")
    _run([*paths, *options, root], folder)
    if out.stat().st_size > _SCHEMA_BYTES:
        raise _invalid(f"Compiled, it has more than {_SCHEMA_BYTES} bytes.")
    return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())


def _run(arguments: list[str], folder: Path) -> None:
    """Runs the compiler.

    Raises:
        DecodeError: it says what is wrong.
        TransientError: it took too long, or was killed, as where memory is short.
    """
    said = folder / "said"
    # None of the settings that Python takes from its environment, and no secrets of ours.
    command = [sys.executable, "-I", str(_CHILD), *arguments]
    with said.open("wb") as output:
        try:
            code = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                env={name: os.environ[name] for name in _ENVIRON if name in os.environ},
                timeout=COMPILE_SECONDS,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired as error:
            raise _not_now(f"gave no answer for {COMPILE_SECONDS:g} s") from error
    if code == 0:
        return
    if code == -signal.SIGKILL:
        raise _not_now("was killed")
    with said.open("rb") as output:
        lines = output.read(_OUTPUT_BYTES).decode("utf-8", "replace").splitlines()
    told = [line for line in lines if not _ASIDE.search(line)]
    first = told[0] if told else f"The compiler ended with code {code}."
    raise _invalid(re.sub(rf"{re.escape(str(folder))}/\w+/", "", first))


def _write(folder: Path, name: str, text: str) -> None:
    """Writes a file that the compiler finds by its import name, inside of `folder`."""
    path = folder / _checked_name(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8"))
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        what = f"Import {name[:100]!r} is both a file and the folder of another."
        raise _invalid(what) from error
    except UnicodeEncodeError as error:
        raise _invalid("Its text is not Unicode.") from error


def _checked_name(name: str) -> str:
    """`name`, which can only lead to a place inside a folder."""
    parts = name.split("/")
    sound = all(_PART.fullmatch(part) and part not in (".", "..") for part in parts)
    if not sound or len(name) > _NAME_CHARS:
        raise _invalid(f"It refers to {name[:100]!r}, which is no relative path of a file.")
    return name


def _parsed(file: str) -> descriptor_pb2.FileDescriptorProto | None:
    """The descriptor that `file` is in base 64; None for a text."""
    try:
        raw = base64.b64decode(file.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
    if not raw:
        return None
    try:
        return descriptor_pb2.FileDescriptorProto.FromString(raw)
    except ProtobufError as error:
        raise _invalid("It is base 64 of something else than a file's descriptor.") from error


def _google_types() -> str:
    # A namespace package: `resources` gives the folder of any of its modules.
    with resources.as_file(resources.files("google.type") / "date.proto") as date:
        return str(date.parent)


def _invalid(what: str) -> DecodeError:
    short = what if len(what) <= _MESSAGE_CHARS else f"{what[:_MESSAGE_CHARS]}..."
    return DecodeError("schema.invalid", f"The Protobuf schema cannot be used. {short}")


def _not_now(what: str) -> TransientError:
    return TransientError(f"The Protobuf compiler {what}.", component=Component.REGISTRY)

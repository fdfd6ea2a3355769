"""What is on the disk for good."""

from __future__ import annotations

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Returns once a file, or the names in a folder, are on the disk. May block.

    Raises:
        OSError: the disk failed; what is on it is not known then.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

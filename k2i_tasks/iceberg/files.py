"""Files of a warehouse: through PyIceberg's file access, and on a local disk made to last.

PyIceberg never syncs local files, so after a power cut a catalog could name metadata that the disk
does not hold. Here each local file and the folders made for it are synced before anyone is told.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from pyiceberg.io import FileIO
from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO

from k2i_tasks import durable
from k2i_tasks.failpoints import hit

#: For PyIceberg's property `py-io-impl`.
DURABLE_FILE_IO = "k2i_tasks.iceberg.files.DurableFileIO"
_FOLDER_TRIES = 3

_Opened = TypeVar("_Opened")


def local_path(location: str) -> Path | None:
    """The path that `location` names on this machine; None for object stores."""
    scheme, _, path = PyArrowFileIO.parse_location(location)
    return Path(path) if scheme == "file" else None


def make_folder(folder: Path) -> None:
    """Makes `folder` and its parents, and syncs what was made. May block; idempotent."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for made in reversed(missing):
        made.mkdir(exist_ok=True)
        durable.sync(made.parent)


def in_folder(path: Path, opened: Callable[[], _Opened]) -> _Opened:
    """What `opened` gives, with the folder of `path` made for it. May block.

    Orphan removal may take away a folder that is old and empty just before: it is made again.
    """
    for _ in range(_FOLDER_TRIES):
        with suppress(FileNotFoundError):
            make_folder(path.parent)
            return opened()
    make_folder(path.parent)
    return opened()


def sync_file(path: Path) -> None:
    """Returns once `path` and its entry in the folder are on the disk. May block."""
    durable.sync(path)
    durable.sync(path.parent)


class DurableFileIO(PyArrowFileIO):
    """PyArrow's file access, whose local files are on the disk once they are closed."""

    def new_output(self, location: str) -> PyArrowFile:
        path = local_path(location)
        if path is None:
            return super().new_output(location)
        found = super().new_output(location)
        return _DurableFile(location, found._path, found._filesystem)


class _DurableFile(PyArrowFile):
    def create(self, overwrite: bool = False) -> _DurableStream:
        path = Path(self._path)
        return _DurableStream(in_folder(path, lambda: PyArrowFile.create(self, overwrite)), path)


class _DurableStream:
    """The few methods of an output stream that PyIceberg uses; `close` syncs."""

    def __init__(self, stream: Any, path: Path) -> None:
        self._stream = stream
        self._path = path

    @property
    def closed(self) -> bool:
        return bool(self._stream.closed)

    def write(self, data: bytes) -> int:
        return int(self._stream.write(data))

    def tell(self) -> int:
        return int(self._stream.tell())

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
            hit("metadata.file.written")
            sync_file(self._path)
            hit("metadata.file.synced")

    def __enter__(self) -> _DurableStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def remove(io: FileIO, location: str) -> bool:
    """Deletes one file; whether it was there. May block; idempotent.

    Raises:
        OSError: the store refused or is away.
    """
    try:
        io.delete(location)
    except FileNotFoundError:
        return False
    return True

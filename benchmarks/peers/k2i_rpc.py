"""A client of K2I's read RPC: what is in its memory, as Arrow, over its Unix socket.

The frames are those of its crate `k2i-rpc`, version 1: a length of four bytes, `K2IR`, the version,
the codec, and a request or a response in bincode (numbers little-endian, lengths in eight bytes).
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pyarrow as pa

HEADER = b"K2IR" + struct.pack("<HB", 1, 1)
#: Numbers of the requests and responses.
SCAN_BEGIN, SCAN_END = 3, 4
READ_STATE, ERROR = 3, 5


class RpcError(Exception):
    """K2I refuses a request, or its answer is not the expected one."""


class RpcClient:
    """One connection, for one table.

    Args:
        path: of the socket.
        database, table: the table.
    """

    def __init__(self, path: Path, database: str, table: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(60)
        self._socket.connect(str(path))
        self._name = _text(database) + _text(table)

    def rows(self) -> pa.Table | None:
        """All rows in memory, None when there are none; the scan is ended, too.

        Raises:
            RpcError: K2I refuses, or names data files: then some rows are not in memory any more.
        """
        answer = self._asked(struct.pack("<I", SCAN_BEGIN) + self._name + b"\0")
        state = _Reader(answer)
        kind = state.number("<I")
        if kind != READ_STATE:
            raise RpcError(f"answer {kind}: {answer[:200]!r}")
        scan = state.number("<Q")
        state.number("<Q")  # the position that it is consistent at
        state.text()
        state.text()
        if state.number("<Q"):
            raise RpcError("some rows are in data files")
        found = None
        if state.number("<B"):
            found = pa.ipc.open_stream(pa.py_buffer(state.bytes())).read_all()
        self._asked(struct.pack("<I", SCAN_END) + self._name + struct.pack("<Q", scan))
        return found

    def close(self) -> None:
        """Idempotent."""
        self._socket.close()

    def _asked(self, request: bytes) -> memoryview:
        body = HEADER + request
        self._socket.sendall(struct.pack("<I", len(body)) + body)
        (size,) = struct.unpack("<I", self._taken(4))
        frame = self._taken(size)
        if bytes(frame[: len(HEADER)]) != HEADER:
            raise RpcError(f"not a frame: {bytes(frame[:16])!r}")
        return frame[len(HEADER) :]

    def _taken(self, size: int) -> memoryview:
        taken, at = memoryview(bytearray(size)), 0
        while at < size:
            came = self._socket.recv_into(taken[at:])
            if not came:
                raise RpcError("the connection has ended")
            at += came
        return taken


class _Reader:
    """Takes values of bincode from the front."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    def number(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return int(value)

    def bytes(self) -> memoryview:
        size = self.number("<Q")
        self._at += size
        return self._data[self._at - size : self._at]

    def text(self) -> str:
        return str(self.bytes(), "utf-8")


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data

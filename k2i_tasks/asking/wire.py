"""What a run and the process that evaluates its queries say to each other over a socket.

Each frame is one letter, eight bytes of length, and so many bytes:

    parent -> worker   Q  a query: JSON with its SQL, its tables and their schemas
                       B  a batch of a table        E  the table has no more
                       X  JSON: the table could not be read
    worker -> parent   O  JSON: open a table, these columns and conditions, by a number
                       G  JSON: the next batch of that number
                       S  schema of the result      B  a batch of the result
                       E  JSON: done                X  JSON: what went wrong
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

import pyarrow as pa

_HEAD = struct.Struct(">cQ")
#: Exit code with which a worker ends itself once it has taken too much memory.
MEMORY_CODE = 83


class Wire:
    """One end of the socket. One thread sends and receives at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def send(self, kind: bytes, payload: Any = b"") -> None:
        """One frame. Blocks while the other side does not read; raises OSError if it is gone."""
        size = len(payload)
        self.connection.sendall(_HEAD.pack(kind, size))
        if size:
            self.connection.sendall(payload)

    def send_json(self, kind: bytes, value: Any) -> None:
        self.send(kind, json.dumps(value).encode())

    def send_batch(self, batch: pa.RecordBatch) -> None:
        self.send(b"B", memoryview(batch.serialize()))

    def receive(self) -> tuple[bytes, pa.Buffer]:
        """One frame. Blocks.

        Raises:
            EOFError: the other side is gone.
        """
        kind, size = _HEAD.unpack(self._exactly(_HEAD.size))
        return kind, self._exactly(size)

    def _exactly(self, size: int) -> pa.Buffer:
        # Arrow's own memory: aligned, so that batches are read where they lie.
        buffer = pa.allocate_buffer(size)
        left = memoryview(buffer)
        while left:
            try:
                count = self.connection.recv_into(left, min(len(left), 1 << 20))
            except ConnectionError:
                count = 0
            if not count:
                raise EOFError("the other side is gone")
            left = left[count:]
        return buffer

    def close(self) -> None:
        self.connection.close()


def schema_text(schema: pa.Schema) -> str:
    """A schema for JSON."""
    return bytes(schema.serialize()).hex()


def schema_of(text: str) -> pa.Schema:
    """The reverse of `schema_text`."""
    return pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(text)))

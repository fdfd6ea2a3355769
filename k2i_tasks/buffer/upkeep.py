"""What is done to the hot buffer's pieces beside the run: keys are indexed, small pieces joined.

On a thread of its own: the one that consumes only appends. What it has not come to yet is found
all the same, more slowly.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from k2i_tasks.buffer.hot import HotBuffer
from k2i_tasks.buffer.key_hashes import hashes
from k2i_tasks.buffer.key_index import KeyIndex
from k2i_tasks.buffer.piece import Piece, joined
from k2i_tasks.errors import ConfigError

log = logging.getLogger(__name__)

#: So many neighbours are joined into one piece of at most so many rows and bytes.
JOIN_MIN = 8
JOIN_ROWS_MAX = 65_536
JOIN_BYTES_MAX = 16 << 20
#: Pieces that come within this time are indexed together, in seconds.
GATHER_SECONDS = 0.05


class HotUpkeep:
    """Indexes and joins the pieces of one buffer.

    Args:
        buffer: whose pieces.
        key_column: the column to index; None for none.
    """

    def __init__(self, buffer: HotBuffer, key_column: str | None = None) -> None:
        self.index = KeyIndex()
        self.key_column = key_column
        #: CPU that the thread has used, in seconds.
        self.cpu_seconds = 0.0
        self._buffer = buffer
        self._changed = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._refused = False
        buffer.on_change = self._changed.set
        buffer.worker = self

    def start(self) -> None:
        """Begins to work. Idempotent."""
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._work, name="k2i-hot", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Ends the work. Idempotent; blocks until what was begun is done."""
        self._stop.set()
        self._changed.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def step(self) -> None:
        """Does what there is to do now."""
        self._index_new()
        for group in _small(self._buffer.kept_pieces()):
            self._buffer.replace(group, joined(group, self._buffer.columns))

    def _work(self) -> None:
        while not self._stop.is_set():
            self._changed.wait()
            if self._stop.wait(GATHER_SECONDS):
                return
            self._changed.clear()
            try:
                self.step()
                self.cpu_seconds = time.thread_time()
            except Exception:
                # Rows are found without it; whoever looks is told by the time that takes.
                log.exception("the hot rows are not indexed, and go on unindexed")
                return

    def _index_new(self) -> None:
        if self.key_column is None:
            return
        first, _end = self._buffer.span()
        self.index.drop_below(first)
        done = self.index.end
        for piece in self._buffer.pieces_from(first if done is None else done):
            if piece.rows and piece.end > (done or 0):
                self._index(piece, self.key_column, max(piece.first, done or 0))
        self._buffer.note_index(self.index.nbytes)

    def _index(self, piece: Piece, name: str, first: int) -> None:
        """Adds the rows of a piece from the one with this number on."""
        found, rows = np.empty(0, np.uint64), np.empty(0, np.int64)
        if name in piece.table.schema.names:
            column = piece.table.column(name).slice(first - piece.first)
            try:
                found, rows = hashes(column)
            except ConfigError as error:
                if not self._refused:
                    log.warning("column %s is not indexed: %s", name, error)
                    self._refused = True
        self.index.add(found, rows + first, first, piece.end)


def _small(pieces: tuple[Piece, ...]) -> Iterator[list[Piece]]:
    """Neighbours that are to be one piece."""
    group: list[Piece] = []
    rows = nbytes = 0
    schema: pa.Schema | None = None
    for piece in pieces:
        alike = schema is None or not piece.rows or piece.table.schema.equals(schema)
        fits = rows + piece.rows <= JOIN_ROWS_MAX and nbytes + piece.nbytes <= JOIN_BYTES_MAX
        if not (alike and fits):
            if len(group) >= JOIN_MIN:
                yield group
            group, rows, nbytes, schema = [], 0, 0, None
        group.append(piece)
        rows, nbytes = rows + piece.rows, nbytes + piece.nbytes
        if piece.rows and schema is None:
            schema = piece.table.schema
    if len(group) >= JOIN_MIN:
        yield group

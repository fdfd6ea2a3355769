"""The tables that can be queried in this process, as they come and go."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from k2i_tasks.buffer.hot import HotBuffer
from k2i_tasks.buffer.upkeep import HotUpkeep
from k2i_tasks.config import Config
from k2i_tasks.hot_view import TableView
from k2i_tasks.iceberg.catalog import open_catalog
from k2i_tasks.iceberg.heads import Heads
from k2i_tasks.views import View


class HotTables:
    """Buffers and views by the names of their tables. Thread-safe.

    A table keeps both while its runs follow one another: what a view has shown it goes on showing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tables: dict[str, tuple[HotBuffer, TableView]] = {}

    def views(self) -> Mapping[str, View]:
        """The views of now, by full names such as `demo.orders`."""
        with self._lock:
            return {name: view for name, (_buffer, view) in self._tables.items()}

    def buffer(self, config: Config, resolved: Mapping[str, str]) -> HotBuffer:
        """The buffer for the next run of a table. Reaches nothing; the table's view is there then.

        Args:
            config: of one topic and its table.
            resolved: plain secrets by the dotted name of their key.
        """
        name = ".".join(config.iceberg.identifier)
        with self._lock:
            if name not in self._tables:
                self._tables[name] = _made(name, config, resolved)
            return self._tables[name][0]

    def forget(self, name: str) -> None:
        """The table is not read any more. Idempotent."""
        with self._lock:
            gone = self._tables.pop(name, None)
        if gone is not None:
            gone[0].close()
            gone[1].close()

    def close(self) -> None:
        """Forgets all tables."""
        for name in list(self.views()):
            self.forget(name)


def _made(name: str, config: Config, resolved: Mapping[str, str]) -> tuple[HotBuffer, TableView]:
    buffer, iceberg = config.buffer, config.iceberg
    places = iceberg.metadata_columns
    hot = HotBuffer(
        ttl_seconds=float(buffer.ttl_seconds),
        bytes_max=buffer.size_bytes_max,
        columns=(places.partition, places.offset),
    )
    heads = Heads(
        lambda: open_catalog(iceberg, resolved), iceberg.identifier, iceberg.sink, iceberg.branch
    )
    return hot, TableView(name, hot, heads, HotUpkeep(hot, buffer.index_column))

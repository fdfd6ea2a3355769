"""The committed half of a view: a branch's head, the offsets that it records, its rows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.schema import Schema
from pyiceberg.table import Table

from k2i_tasks.errors import Component, IntegrityError, SchemaConflictError, TransientError
from k2i_tasks.iceberg.catalog import find_table
from k2i_tasks.iceberg.difference import difference
from k2i_tasks.iceberg.evolution import add, optional_for
from k2i_tasks.iceberg.pinned import Pinned
from k2i_tasks.iceberg.schema import iceberg_schema
from k2i_tasks.iceberg.state import recorded
from k2i_tasks.types import Offsets

#: Longest wait for a catalog that does not answer, when its connection is to be closed.
CLOSE_SECONDS = 1.0


class Head(Pinned):
    """A branch's newest snapshot, and the offsets up to which its rows were committed.

    Args:
        table: as loaded; used by nobody else.
        sink: names the state.
        branch: whose head it is.
    """

    def __init__(self, table: Table, sink: str, branch: str) -> None:
        super().__init__(table, branch)
        self.uuid = str(table.metadata.table_uuid)
        told = recorded(table.metadata, sink, branch)
        # What the head's own history says is what its files hold; the property may be ahead of
        # that, after a rollback. Once our snapshots are expired the property alone is left.
        state = told.summary or told.in_property
        #: Per partition: the rows of all records below it are committed, and no others.
        self.offsets: Offsets = {} if state is None else state.offsets
        self.rolled_back = told.rolled_back

    def covering(self, schemas: Sequence[pa.Schema]) -> Schema:
        """The table's columns as they will be once rows of `schemas` are committed.

        Raises:
            SchemaConflictError: a column has a type that the table's cannot be widened to.
        """
        known = self.schema
        if not schemas:
            return known
        rows = _unified(schemas)
        found = difference(known, iceberg_schema(rows))
        if found.conflicts:
            raise SchemaConflictError(
                f"Table {self.name} and the rows in memory disagree: {'; '.join(found.conflicts)}.",
                remedy="The run reads them again by the table's columns; ask again then.",
            )
        # Rows that lack a required value are shown, whatever becomes of them: a reader needs none.
        found.optional.extend(optional_for(known, rows, rows.names))
        if not found.changes:
            return known
        update = self._table.update_schema()
        add(update, found)
        return update._apply()


class Heads:
    """Loads heads of one branch. Thread-safe: its connection is used by one thread at a time.

    Args:
        connect: opens the catalog; called with the first load.
        identifier: namespace and table name.
        sink: names the state.
        branch: whose head is loaded.
    """

    def __init__(
        self, connect: Callable[[], Catalog], identifier: tuple[str, ...], sink: str, branch: str
    ) -> None:
        self._connect = connect
        self._identifier = identifier
        self._sink = sink
        self._branch = branch
        self._lock = threading.Lock()
        self._catalog: Catalog | None = None
        self._uuid: str | None = None
        self._closing = False

    def load(self) -> Head | None:
        """The head as it is now; None as long as there is no table. May block.

        Raises:
            IntegrityError: the table was dropped, or is another than before.
            ServiceError: no right to read it.
            TransientError: the catalog is away.
        """
        with self._lock:
            if self._closing:
                raise TransientError(
                    f"Table {'.'.join(self._identifier)} is not read here any more.",
                    component=Component.ICEBERG,
                )
            if self._catalog is None:
                self._catalog = self._connect()
            table = find_table(self._catalog, self._identifier)
            head = None if table is None else Head(table, self._sink, self._branch)
            found = None if head is None else head.uuid
            if self._uuid is not None and found != self._uuid:
                raise IntegrityError(
                    f"Table {'.'.join(self._identifier)} was dropped"
                    f"{'' if found is None else ' and created again'} while it was read.",
                    component=Component.ICEBERG,
                    remedy="Restart to ingest into a new table; move the write-ahead log folder "
                    "away first.",
                )
            self._uuid = found
            return head

    def close(self) -> None:
        """Lets go of the connection; it is not opened again. Idempotent.

        Blocks for `CLOSE_SECONDS` at most: a catalog that does not answer is left to whoever is
        loading.
        """
        self._closing = True
        if not self._lock.acquire(timeout=CLOSE_SECONDS):
            return
        try:
            if self._catalog is not None:
                self._catalog.close()
                self._catalog = None
        finally:
            self._lock.release()


def columns_of(head: Head | None, schemas: Sequence[pa.Schema]) -> Schema:
    """The columns of a table with rows of `schemas`, as far as it is known.

    Raises:
        SchemaConflictError: see `Head.covering`.
    """
    if head is not None:
        return head.covering(schemas)
    return iceberg_schema(_unified(schemas)) if schemas else Schema()


def _unified(schemas: Sequence[pa.Schema]) -> pa.Schema:
    return pa.unify_schemas(list(schemas), promote_options="permissive")

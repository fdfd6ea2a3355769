"""A table and its dead letters as of one moment, though they are two tables."""

from __future__ import annotations

from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from k2i_tasks.config.model_iceberg import Iceberg
from k2i_tasks.errors import Component, TransientError
from k2i_tasks.iceberg.catalog import find_table, load_table
from k2i_tasks.iceberg.fixed import FixedTable
from k2i_tasks.iceberg.letters import Letters, not_landed
from k2i_tasks.iceberg.positions import PositionColumns
from k2i_tasks.iceberg.state import SinkState, recorded, replay_sink

#: Looks at both tables, until no replay was committed in between.
LOOKS_MAX = 20
_POSITIONS = PositionColumns("partition", "offset", "topic")


def table_and_letters(
    catalog: Catalog, iceberg: Iceberg, topic: str
) -> tuple[Table, FixedTable | None]:
    """The table, and the letters whose record is no row of it; None for no table of letters.

    The letters are read after the table: they are committed before their rows. A replay goes the
    other way, so none may come in between. May block.

    Raises:
        ServiceError: there is no such table, or no right to read it.
        TransientError: the catalog is away, or a replay always came in between.
    """
    table = load_table(catalog, iceberg.identifier)
    for _ in range(LOOKS_MAX):
        beside = find_table(catalog, iceberg.dead_letter_identifier)
        if beside is None:
            return table, None
        if not Letters(beside).has_marks:
            return table, FixedTable(beside, "main", _POSITIONS, topic)
        again = load_table(catalog, iceberg.identifier)
        replays = _replays(table, iceberg)
        if _replays(again, iceberg) == replays:
            only = not_landed(replays.batches)
            return table, FixedTable(beside, "main", _POSITIONS, topic, only)
        table = again
    raise TransientError(
        f"Dead letters of {'.'.join(iceberg.identifier)} are replayed again and again meanwhile.",
        component=Component.ICEBERG,
        remedy="Try again when the replay has ended.",
    )


def _replays(table: Table, iceberg: Iceberg) -> SinkState:
    sink = replay_sink(iceberg.sink)
    return recorded(table.metadata, sink, iceberg.branch).newest or SinkState()

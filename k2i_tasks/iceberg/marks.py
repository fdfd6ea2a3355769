"""Marks on dead letters: files of their table are written anew, with other values in two columns.

replay_id    replayed_at
null         null          open
an id        null          chosen by a replay; done if the table records its id, else open
an id        a time        done
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Collection, Set

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.catalog import Catalog
from pyiceberg.expressions import And, BooleanExpression
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation

from k2i_tasks.errors import (
    CommitConflictError,
    Component,
    ServiceError,
    TransientError,
)
from k2i_tasks.iceberg.catalog import load_table
from k2i_tasks.iceberg.data_files import discard
from k2i_tasks.iceberg.dead_letters import with_all_columns
from k2i_tasks.iceberg.letters import Key, among, equal, is_null, keys_of
from k2i_tasks.iceberg.maintenance.replace import replace_files
from k2i_tasks.iceberg.maintenance.rewriting import Joined, Rewriter
from k2i_tasks.iceberg.maintenance.survey import Source, Survey

log = logging.getLogger(__name__)

#: Times in a row that others may be faster, before the files are written anew.
_CONFLICTS_MAX = 20
_JOB = "marking of dead letters"
_Change = Callable[[pa.Table], pa.Table]


class Marks:
    """Sets the marks of one table's letters. One attempt a call; idempotent. For one thread.

    Each call raises `TransientError` or `CommitStateUnknownError` when it has to be made again.

    Args:
        catalog: guarded; used by this object's thread only.
        identifier: namespace and name of the dead-letter table.
        codec: as `iceberg.compression`.
    """

    def __init__(self, catalog: Catalog, identifier: tuple[str, ...], codec: str) -> None:
        self._catalog = catalog
        self._identifier = identifier
        self._codec = codec

    def prepare(self) -> None:
        """Gives a table of an older version the columns. May block."""
        with_all_columns(self._catalog, load_table(self._catalog, self._identifier))

    def choose(self, chosen: BooleanExpression, keys: Set[Key], replay_id: str) -> None:
        """Notes that a replay is to put these letters into the table; only those that are open.

        Args:
            chosen: a condition that holds for all of them, and for few others.
            keys: their coordinates.
            replay_id: of the replay.
        """

        def change(rows: pa.Table) -> pa.Table:
            wanted = pa.array([key in keys for key in keys_of(rows)], pa.bool_())
            free = pc.and_(rows["replay_id"].is_null(), rows["replayed_at"].is_null())
            return _set(rows, "replay_id", pc.and_(wanted, free), replay_id)

        self._apply(And(is_null("replay_id"), chosen), change)

    def finish(self, replay_ids: Collection[str]) -> None:
        """Marks the letters of replays as done: their rows are in the table."""
        now = int(time.time() * 1_000_000)

        def change(rows: pa.Table) -> pa.Table:
            mine = pc.and_(_is_in(rows["replay_id"], replay_ids), rows["replayed_at"].is_null())
            return _set(rows, "replayed_at", mine, now)

        self._apply(And(_one_of(replay_ids), is_null("replayed_at")), change)

    def reopen(self, replay_ids: Collection[str]) -> None:
        """Takes the marks of replays off: their rows are not in the table."""

        def change(rows: pa.Table) -> pa.Table:
            mine = _is_in(rows["replay_id"], replay_ids)
            return _set(_set(rows, "replayed_at", mine, None), "replay_id", mine, None)

        self._apply(_one_of(replay_ids), change)

    # Inside.

    def _apply(self, chosen: BooleanExpression, change: _Change) -> None:
        table = load_table(self._catalog, self._identifier)
        survey = Survey("main")
        sources = self._sources(table, survey, chosen)
        if not sources:
            return
        rewriter = Rewriter(table, self._codec, lambda: False, change)
        survey.keep(source.path for source in sources)
        written: list[Joined] = []
        try:
            for source in sources:
                written.append(rewriter.join([source]))
                survey.also(written[-1].staged.path)
        except BaseException:
            self._remove(table, written)
            raise
        # From here on they may be in the table, whatever an answer says: nothing is removed.
        self._commit(survey, written)

    def _sources(self, table: Table, survey: Survey, chosen: BooleanExpression) -> list[Source]:
        """The files with letters of the condition."""
        by_path = {source.path: source for source in survey.first(table, sys.maxsize)}
        paths = [task.file.file_path for task in table.scan(row_filter=chosen).plan_files()]
        strange = [path for path in paths if path not in by_path]
        if strange:
            raise ServiceError(
                f"Letters of {'.'.join(self._identifier)} cannot be marked: {strange[0]} is not "
                "Parquet, of an older partition spec, or has rows deleted by position.",
                component=Component.ICEBERG,
                remedy="Have the engine that changed the table rewrite its files (Spark: "
                "rewrite_data_files).",
            )
        return [by_path[path] for path in paths]

    def _commit(self, survey: Survey, written: list[Joined]) -> None:
        """Commits on whatever the head is, as long as it has all of the files."""
        for _ in range(_CONFLICTS_MAX):
            table = load_table(self._catalog, self._identifier)
            manifests = survey.again(table)
            there = {each.manifest_path for each in manifests}
            if any(survey.manifest_of(one.staged.path) in there for one in written):
                return  # told to be a conflict, and landed all the same
            places = {survey.manifest_of(one.sources[0].path) for one in written}
            changed = any(survey.is_deleted_from(one.sources[0]) for one in written)
            if changed or not there >= places:
                break
            try:
                replace_files(
                    table,
                    "main",
                    manifests,
                    places,
                    written,
                    lambda _snapshot, _parent: None,
                    operation=Operation.OVERWRITE,
                    job=_JOB,
                )
                return
            except CommitConflictError:
                log.info("another commit to the dead letters came first, looking again")
        raise TransientError(
            f"Files of {'.'.join(self._identifier)} were replaced by others meanwhile.",
            component=Component.ICEBERG,
        )

    def _remove(self, table: Table, written: list[Joined]) -> None:
        """Files that were never sent; what stays is an orphan."""
        try:
            discard(table.io, [each.staged for each in written])
        except (ServiceError, TransientError) as error:
            log.warning("unused files of dead letters stay: %s", error)


def _one_of(replay_ids: Collection[str]) -> BooleanExpression:
    ids = sorted(replay_ids)
    return equal("replay_id", ids[0]) if len(ids) == 1 else among("replay_id", ids)


def _is_in(column: pa.ChunkedArray, values: Collection[str]) -> pa.ChunkedArray:
    return pc.is_in(column, value_set=pa.array(sorted(values), column.type))


def _set(rows: pa.Table, name: str, which: pa.ChunkedArray, value: object) -> pa.Table:
    index = rows.schema.get_field_index(name)
    field = rows.schema.field(index)
    changed = pc.if_else(which, pa.scalar(value, field.type), rows[name])
    return rows.set_column(index, field, changed)

"""Compaction of a table's data files: small ones become few, the rows stay what they are.

Files are read and written once, in groups; a group's commit is built on the head as it then is and,
when others were faster, built again on theirs, without another look at a row. Nobody waits for it:
a conflict is ours to lose. What another writer has replaced, deleted or deleted from meanwhile is
given up.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from pyiceberg.catalog import Catalog
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata

from k2i_tasks.clock import Clock
from k2i_tasks.errors import (
    CommitConflictError,
    CommitStateUnknownError,
    Component,
    IntegrityError,
    ServiceError,
    TransientError,
)
from k2i_tasks.failpoints import hit
from k2i_tasks.iceberg.catalog import load_table
from k2i_tasks.iceberg.data_files import STAGED_SECONDS_MAX, discard, read_footer
from k2i_tasks.iceberg.maintenance.plan import CompactionOptions, Group, Join, plan_groups
from k2i_tasks.iceberg.maintenance.replace import replace_files
from k2i_tasks.iceberg.maintenance.rewriting import Joined, Rewriter, StoppedError
from k2i_tasks.iceberg.maintenance.survey import Source, Survey
from k2i_tasks.iceberg.manifests import Fetched, fetched
from k2i_tasks.iceberg.state import ancestors

__all__ = ["Compacted", "Compaction", "CompactionOptions", "Group", "Join"]

log = logging.getLogger(__name__)

#: Times in a row that others may be faster before the caller is told.
_CONFLICTS_MAX = 8
#: Most bytes of manifests that are in memory before anybody waits for the commit.
_READ_AHEAD_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Compacted:
    """What was done.

    Args:
        files_before, files_after: data files that were replaced, and by how many.
        rows: in them.
        bytes_before, bytes_after: as stored.
        commits: snapshots that were made.
        given_up: joins that came to nothing, since others changed their files meanwhile.
    """

    files_before: int = 0
    files_after: int = 0
    rows: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    commits: int = 0
    given_up: int = 0


@dataclass(slots=True)
class _Work:
    """A group between attempts: what is to be written, is written, was sent (id and parent).

    `at` is when the first of it was written, unix seconds.
    """

    left: deque[Join]
    written: list[Joined] = field(default_factory=list)
    sent: list[tuple[int, int]] = field(default_factory=list)
    staged: bool = False
    at: float = 0.0


class Compaction:
    """Joins the small files of one branch once. For one thread; calls may block.

    Args:
        catalog: guarded catalog, used by this object's thread only.
        identifier: namespace and table name.
        branch: branch that is compacted.
        options: what is joined.
        lane: held while a commit is built and sent.
        stopping: asked between units of work; when true, `run` commits what is written and ends.
        clock: time; by it, files that were written long ago are looked for before their commit.
    """

    def __init__(
        self,
        catalog: Catalog,
        identifier: tuple[str, ...],
        *,
        branch: str,
        options: CompactionOptions,
        lane: AbstractContextManager[object],
        stopping: Callable[[], bool],
        clock: Clock,
    ) -> None:
        self._catalog = catalog
        self._identifier = identifier
        self._branch = branch
        self._options = options
        self._lane = lane
        self._stopping = stopping
        self._clock = clock
        self._survey = Survey(branch)
        self._works: deque[_Work] | None = None
        self._spec_id = 0
        self._uuid: str | None = None
        self._done = Compacted()

    def plan(self) -> list[Group]:
        """What would be joined as the table is now. Changes nothing.

        Raises:
            ServiceError: there is no such table, it has equality deletes, or is of format
                version 3.
            TransientError: catalog or store is away.
        """
        return plan_groups(self._look(), Survey(self._branch), self._options)

    def run(self) -> Compacted:
        """Joins what `plan` says. One attempt; idempotent: a repeated call goes on where it was.

        Returns:
            What was done in all calls so far; less than planned if it was asked to stop.

        Raises:
            IntegrityError: rows do not add up, or it is another table; nothing of it is committed.
            ServiceError: as `plan`; or the store refuses.
            TransientError: catalog or store is away, or others were faster many times in a row.
            CommitStateUnknownError: a commit was sent, its outcome is not known.
        """
        try:
            if self._works is None:
                self._begin()
            assert self._works is not None
            while self._works and (self._works[0].written or not self._stopping()):
                self._finish(self._works[0])
                self._works.popleft()
        except (TransientError, CommitStateUnknownError):
            raise
        except BaseException:
            self.abandon()
            raise
        return self._done

    def abandon(self) -> None:
        """Deletes written files that were never sent, as far as the store lets it; ends the job."""
        for work in self._works or ():
            if not work.sent:
                self._remove(work.written)
        self._works = deque()

    # Inside.

    @property
    def _name(self) -> str:
        return ".".join(self._identifier)

    def _look(self) -> Table:
        table = load_table(self._catalog, self._identifier)
        uuid = str(table.metadata.table_uuid)
        if self._uuid is not None and uuid != self._uuid:
            raise IntegrityError(
                f"Table {self._name} was dropped and created again during its compaction.",
                component=Component.ICEBERG,
            )
        self._uuid = uuid
        return table

    def _begin(self) -> None:
        table = self._look()
        groups = plan_groups(table, self._survey, self._options)
        self._spec_id = table.metadata.default_spec_id
        joins = [join for group in groups for join in group.joins]
        self._survey.keep(source.path for join in joins for source in join.sources)
        self._works = deque(_Work(deque(group.joins)) for group in groups)

    def _finish(self, work: _Work) -> None:
        self._write(work)
        if work.written and not work.staged:
            hit("compact.staged")
            work.staged = True
        for _ in range(_CONFLICTS_MAX):
            try:
                return self._commit(work)
            except CommitConflictError as error:
                conflict = error
                log.info("another commit to %s came first, looking again", self._name)
        raise conflict

    def _write(self, work: _Work) -> None:
        """Writes what is left of a group, as long as nobody asks to stop."""
        if not work.left:
            return
        table = self._look()
        if table.metadata.default_spec_id != self._spec_id:
            # What was planned are files of an older spec by now; those are left alone.
            self._give_up(len(work.left))
            work.left.clear()
            return
        rewriter = Rewriter(table, self._options.codec, self._stopping)
        there = self._there(table)
        while work.left and not self._stopping():
            join = work.left[0]
            try:
                joined = rewriter.join(join.sources) if self._holds(join.sources, there) else None
            except StoppedError:
                break
            except ServiceError as error:
                gone = isinstance(error.__cause__, FileNotFoundError)
                if not gone or self._holds(join.sources, self._there(self._look())):
                    raise
                joined = None
            if joined is None:
                self._give_up(1)
            else:
                work.at = work.at or self._clock.unix()
                work.written.append(joined)
                self._survey.also(joined.staged.path)
            work.left.popleft()

    def _there(self, table: Table) -> set[str]:
        """Locations of the head's manifests, all of them read."""
        return {each.manifest_path for each in self._survey.again(table)}

    def _holds(self, sources: Sequence[Source], there: set[str]) -> bool:
        """Whether all files are in these manifests still, and nothing of them was deleted."""
        return all(
            self._survey.manifest_of(source.path) in there
            and not self._survey.is_deleted_from(source)
            for source in sources
        )

    def _commit(self, work: _Work) -> None:
        """Looks, and unless the group is there already commits what of it still holds."""
        if not work.written:
            return
        # Most of the reading is done before anybody has to wait for it.
        known = self._read_ahead(work)
        with self._lane:
            table = self._look()
            manifests = self._survey.again(table)
            there = {each.manifest_path for each in manifests}
            if self._has_landed(work, table, there):
                self._count(work)
                return
            self._drop_what_changed(work, table, there)
            if not work.written:
                return
            replace_files(
                table,
                self._branch,
                manifests,
                self._touched(work),
                work.written,
                lambda snapshot, parent: work.sent.append((snapshot, parent)),
                known=known,
            )
        self._count(work)

    def _read_ahead(self, work: _Work) -> dict[str, Fetched]:
        """The manifests with files to be replaced as they are now, but for what would be much."""
        table = self._look()
        manifests, touched = self._survey.again(table), self._touched(work)
        chosen, size = [], 0
        for manifest in manifests:
            if manifest.manifest_path in touched:
                size += manifest.manifest_length
                if size > _READ_AHEAD_BYTES:
                    break
                chosen.append(manifest)
        return {each.manifest.manifest_path: each for each in fetched(table.io, chosen)}

    def _touched(self, work: _Work) -> set[str]:
        """Locations of the manifests with files to be replaced."""
        return {
            self._survey.manifest_of(source.path)
            for joined in work.written
            for source in joined.sources
        }

    def _has_landed(self, work: _Work, table: Table, there: set[str]) -> bool:
        """Whether an earlier attempt did: its snapshot is an ancestor, or its files are there."""
        if not work.sent:
            return False
        ids = {snapshot_id for snapshot_id, _ in work.sent}
        if any(each.snapshot_id in ids for each in ancestors(table.metadata, self._branch)):
            return True
        return any(self._survey.manifest_of(each.staged.path) in there for each in work.written)

    def _drop_what_changed(self, work: _Work, table: Table, there: set[str]) -> None:
        lost = [
            each
            for each in work.written
            if each.staged.spec_id not in table.specs() or not self._holds(each.sources, there)
        ]
        if abs(self._clock.unix() - work.at) > STAGED_SECONDS_MAX:
            # An orphan removal may have been here, in this process or another.
            lost += [each for each in work.written if each not in lost and _is_gone(each, table)]
        if not lost:
            return
        work.written = [each for each in work.written if each not in lost]
        self._give_up(len(lost))
        if all(_cannot_land(table.metadata, self._branch, *ids) for ids in work.sent):
            self._remove(lost)
        else:
            log.warning("%d files of compaction stay: a commit's outcome is unknown", len(lost))

    def _give_up(self, joins: int) -> None:
        log.info("%d joins of %s are given up: others were at their files", joins, self._name)
        self._done = replace(self._done, given_up=self._done.given_up + joins)

    def _count(self, work: _Work) -> None:
        sources = [source for each in work.written for source in each.sources]
        done = self._done
        self._done = replace(
            done,
            files_before=done.files_before + len(sources),
            files_after=done.files_after + len(work.written),
            rows=done.rows + sum(each.staged.rows for each in work.written),
            bytes_before=done.bytes_before + sum(source.size_bytes for source in sources),
            bytes_after=done.bytes_after + sum(each.staged.size_bytes for each in work.written),
            commits=done.commits + 1,
        )

    def _remove(self, files: Sequence[Joined]) -> None:
        """Deletes files that no snapshot has or can have; what stays is an orphan, told of."""
        try:
            discard(self._look().io, [each.staged for each in files])
        except (ServiceError, TransientError, IntegrityError) as error:
            log.warning("unused files of compaction stay: %s", error)


def _is_gone(joined: Joined, table: Table) -> bool:
    try:
        read_footer(table.io, joined.staged)
    except IntegrityError as error:
        log.warning("compaction: %s", error.what)
        return True
    return False


def _cannot_land(metadata: TableMetadata, branch: str, snapshot_id: int, parent: int) -> bool:
    """Whether the head has moved on from a commit's parent without it, and nothing knows of it."""
    if metadata.snapshot_by_id(snapshot_id) is not None:
        return False  # landed, and rolled back since
    head, *before = [each.snapshot_id for each in ancestors(metadata, branch)] or [parent]
    return head != parent and parent in before

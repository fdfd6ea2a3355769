"""What a compaction would do: which files of which partition become one, in which commits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyiceberg.table import Table
from pyiceberg.typedef import Record

from k2i_tasks.errors import Component, ServiceError
from k2i_tasks.iceberg.maintenance.packing import pack
from k2i_tasks.iceberg.maintenance.survey import Source, Survey

#: Format versions that PyIceberg writes manifests of.
_VERSION_MAX = 2


@dataclass(frozen=True, slots=True)
class CompactionOptions:
    """What is joined.

    Args:
        small_bytes: files below this size are joined.
        target_bytes: size of the joined files.
        min_files: fewest files worth joining, unless they fill a target file.
        group_bytes_max: bytes, as stored, that are rewritten per commit: what a kill may cost.
        codec: as `iceberg.compression`.

    Raises:
        ValueError: they contradict each other.
    """

    small_bytes: int
    target_bytes: int
    min_files: int = 5
    group_bytes_max: int = 2 << 30
    codec: str = "zstd"

    def __post_init__(self) -> None:
        if not 0 < self.small_bytes <= self.target_bytes:
            raise ValueError(f"small files of {self.small_bytes} bytes, target {self.target_bytes}")
        if self.min_files < 2 or self.group_bytes_max < 1:
            raise ValueError(f"{self.min_files} files, groups of {self.group_bytes_max} bytes")


@dataclass(frozen=True, slots=True)
class Join:
    """Files of one partition that become one.

    Args:
        partition: as in a path, for people; empty when the table has none.
        sources: oldest first, at least two.
    """

    partition: str
    sources: tuple[Source, ...]

    @property
    def size_bytes(self) -> int:
        """As stored, before."""
        return sum(source.size_bytes for source in self.sources)


@dataclass(frozen=True, slots=True)
class Group:
    """What one commit does."""

    joins: tuple[Join, ...]


def plan_groups(table: Table, survey: Survey, options: CompactionOptions) -> list[Group]:
    """What would be joined as the table is. Reads all manifests of the branch's head; may block.

    Args:
        table: as just loaded.
        survey: a new one; goes on from what is read here.
        options: what is joined.

    Raises:
        ServiceError: the branch has equality deletes, or the table is of format version 3.
        TransientError: the store is away.
    """
    version = table.metadata.format_version
    if version > _VERSION_MAX:
        raise ServiceError(
            f"Table {'.'.join(table.name())} has format version {version}; files of version "
            f"{_VERSION_MAX} and below can be compacted.",
            component=Component.ICEBERG,
        )
    by_partition: dict[Record, list[Source]] = {}
    for source in survey.first(table, options.small_bytes):
        by_partition.setdefault(source.partition, []).append(source)
    joins: list[Join] = []
    for sources in by_partition.values():
        found = pack(
            [source.size_bytes for source in sources],
            target_bytes=options.target_bytes,
            min_files=options.min_files,
        )
        text = _partition_text(table, sources[0])
        joins += [Join(text, tuple(sources[at] for at in members)) for members in found]
    return _groups(joins, options.group_bytes_max)


def _partition_text(table: Table, source: Source) -> str:
    spec = table.specs()[source.spec_id]
    if spec.is_unpartitioned():
        return ""
    return spec.partition_to_path(source.partition, table.schema())


def _groups(joins: Sequence[Join], most_bytes: int) -> list[Group]:
    """Joins in their order, in groups of at most so many bytes, or of one join."""
    groups: list[list[Join]] = []
    size = 0
    for join in joins:
        if not groups or size + join.size_bytes > most_bytes:
            groups.append([])
            size = 0
        groups[-1].append(join)
        size += join.size_bytes
    return [Group(tuple(each)) for each in groups]

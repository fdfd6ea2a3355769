"""Settings of the table's upkeep: compaction, snapshot expiry, removal of orphan files."""

from __future__ import annotations

from k2i_tasks.config.fields import Flag, Integer, Section, setting

#: No file is taken for an orphan before this age, in seconds: it may be of a commit on its way.
ORPHAN_AGE_SECONDS_MIN = 86_400
_DAY_SECONDS = 86_400
_MIB = 1_048_576


class Maintenance(Section):
    """Upkeep of the table and of its dead letters. One MB is 1,048,576 bytes."""

    compaction_enabled: Flag = setting("Join small files.", True)
    compaction_interval_seconds: Integer = setting("Time between runs.", 3_600, ge=1, le=31_536_000)
    compaction_threshold_mb: Integer = setting(
        "Files below this size are joined.", 100, ge=1, le=65_536
    )
    compaction_target_mb: Integer = setting("Size of joined files.", 512, ge=1, le=65_536)
    snapshot_expiration_enabled: Flag = setting("Expire old snapshots.", True)
    snapshot_retention_days: Integer = setting("Age that snapshots reach.", 7, ge=0, le=36_500)
    orphan_cleanup_enabled: Flag = setting("Remove files that no snapshot names.", True)
    orphan_retention_days: Integer = setting(
        "Age that such files reach; at least a day.", 3, ge=0, le=36_500
    )
    statistics_enabled: Flag = setting("Keep statistics of the table up to date.", True)
    statistics_interval_seconds: Integer = setting("Time between runs.", 3_600, ge=1, le=31_536_000)
    in_run: Flag = setting(
        "Done by the ingest run, on a thread of its own; false where the flow `maintain` does it.",
        True,
        native=True,
    )
    compaction_min_files: Integer = setting(
        "Fewest small files of one partition that are worth joining.",
        5,
        native=True,
        ge=2,
        le=10_000,
    )
    compaction_commit_mb: Integer = setting(
        "Most data that is rewritten for one commit.", 2_048, native=True, ge=1, le=1_048_576
    )
    snapshot_expiration_interval_seconds: Integer = setting(
        "Time between runs; they come earlier after `snapshots_kept` commits.",
        300,
        native=True,
        ge=1,
        le=31_536_000,
    )
    snapshots_kept: Integer = setting(
        "Newest snapshots that are kept. What a commit costs grows with their number.",
        20,
        native=True,
        ge=1,
        le=10_000,
    )
    snapshot_history_kept: Integer = setting(
        "Older ones that are kept, spread over the retention.", 20, native=True, ge=0, le=10_000
    )
    snapshot_grace_seconds: Integer = setting(
        "Age before which no file of a snapshot is removed: who reads it can finish.",
        900,
        native=True,
        ge=0,
        le=_DAY_SECONDS,
    )
    orphan_cleanup_interval_seconds: Integer = setting(
        "Time between runs.", _DAY_SECONDS, native=True, ge=1, le=31_536_000
    )

    @property
    def compaction_threshold_bytes(self) -> int:
        """`compaction_threshold_mb` in bytes."""
        return self.compaction_threshold_mb * _MIB

    @property
    def compaction_target_bytes(self) -> int:
        """`compaction_target_mb` in bytes."""
        return self.compaction_target_mb * _MIB

    @property
    def compaction_commit_bytes(self) -> int:
        """`compaction_commit_mb` in bytes."""
        return self.compaction_commit_mb * _MIB

    @property
    def snapshot_retention_seconds(self) -> int:
        """`snapshot_retention_days` in seconds."""
        return self.snapshot_retention_days * _DAY_SECONDS

    @property
    def orphan_age_seconds(self) -> int:
        """`orphan_retention_days` in seconds, and never less than is safe."""
        return max(ORPHAN_AGE_SECONDS_MIN, self.orphan_retention_days * _DAY_SECONDS)

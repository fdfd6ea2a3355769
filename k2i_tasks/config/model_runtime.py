"""Settings of the process: buffer, log, monitoring, orchestration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import StringConstraints

from k2i_tasks.config.fields import (
    AnyCaseLower,
    Column,
    FilePath,
    Flag,
    Integer,
    Number,
    Section,
    setting,
)

Host = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.:_-]{1,253}$")]
_MIB = 1_048_576


class SchemaEvolution(Section):
    """What happens when records bring another schema."""

    mode: Annotated[Literal["manual", "auto-additive", "permissive"], AnyCaseLower] = setting(
        "Whether new fields become columns; permissive also makes a required column optional for a "
        "record without its value.",
        "auto-additive",
    )
    on_breaking_change: Annotated[
        Literal["dead-letter", "skip-message", "pause", "fail", "variant-column"], AnyCaseLower
    ] = setting(
        "When the table has no place for what a record holds: make it a dead letter (skip-message "
        "is the same), stand still before it until `k2i schema resume`, end with an error, or put "
        "the value as JSON text into a column `<name>__string` beside its own. K2I's own default "
        "is pause.",
        "dead-letter",
    )
    max_columns: Integer = setting(
        "Columns at most, fields of structs and elements of lists included.",
        1_000,
        native=True,
        ge=1,
        le=10_000,
    )
    overflow_column: Column | Literal[""] = setting(
        "Column that takes new fields, together as one JSON object, once there are max_columns; "
        "empty: such a record is as if the table had no place for it.",
        "_rest",
        native=True,
    )
    schema_update_min_interval_seconds: Integer = setting(
        "Least time between two changes of the schema.", 60, ge=1, le=86_400
    )


class Buffer(Section):
    """The rows in memory. One MB is 1,048,576 bytes."""

    ttl_seconds: Integer = setting(
        "Time that rows stay in memory for queries after their commit, as long as there is room.",
        60,
        ge=1,
        le=31_536_000,
    )
    index_column: Column | None = setting(
        "Column that rows in memory are looked up by, at the top level of the table.",
        None,
        native=True,
    )
    max_size_mb: Integer = setting(
        "Hard bound on all rows in memory, buffered and in flight.", 500, ge=1, le=1_048_576
    )
    flush_interval_seconds: Number = setting(
        "Age at which rows are flushed; the rest of a backlog is, once all of it was read.",
        30.0,
        ge=0.05,
        le=86_400,
    )
    flush_batch_size: Integer = setting(
        "Rows at which they are flushed.", 10_000, ge=1, le=1_000_000_000
    )
    memory_alignment_bytes: Integer = setting("Alignment of the columns.", 64, ge=1, le=4_096)
    low_water_ratio: Number = setting(
        "Share of max_size_mb below which paused partitions go on.", 0.5, native=True, ge=0, le=0.99
    )
    max_batches_in_flight: Integer = setting(
        "Sealed batches that may wait for flush and commit.", 2, native=True, ge=1, le=64
    )
    encode_rows: Integer = setting(
        "Rows that are encoded while their batch is still filled; 0 leaves all to the flush.",
        65_536,
        native=True,
        ge=0,
        le=1_000_000,
    )
    flush_size_mb: Number | None = setting(
        "Size at which rows are flushed; a quarter of max_size_mb when not given.",
        None,
        native=True,
        gt=0,
        le=1_048_576,
    )

    @property
    def size_bytes_max(self) -> int:
        """`max_size_mb` in bytes."""
        return self.max_size_mb * _MIB

    @property
    def flush_size_bytes(self) -> int:
        """`flush_size_mb`, whether given or derived, in bytes; at least 1."""
        size_mb = self.max_size_mb / 4 if self.flush_size_mb is None else self.flush_size_mb
        return max(1, int(size_mb * _MIB))


class TransactionLog(Section):
    """The write-ahead log."""

    log_dir: FilePath = setting("Folder of its files.", "./transaction_logs", validate_default=True)
    checkpoint_interval_entries: Integer = setting(
        "Entries between checkpoints.", 10_000, ge=1, le=1_000_000_000
    )
    checkpoint_interval_seconds: Integer = setting(
        "Time between checkpoints.", 300, ge=1, le=86_400
    )
    max_log_files: Integer = setting("Most files that are kept.", 10, ge=1, le=10_000)
    segment_size_mb: Integer = setting(
        "Size at which a new file is begun.", 16, native=True, ge=1, le=1_024
    )


class Monitoring(Section):
    """Health, metrics, logs. A port of 0 takes any free one."""

    metrics_host: Host = setting("Address of /metrics.", "127.0.0.1", native=True)
    metrics_port: Integer = setting("Port of /metrics.", 9_090, ge=0, le=65_535)
    health_host: Host = setting("Address of /health.", "127.0.0.1", native=True)
    health_port: Integer = setting("Port of /health.", 8_080, ge=0, le=65_535)
    log_level: Annotated[Literal["trace", "debug", "info", "warn", "error"], AnyCaseLower] = (
        setting("Least level that is logged.", "info")
    )
    log_format: Annotated[Literal["json", "text"], AnyCaseLower] = setting(
        "JSON lines, or text for people.", "json"
    )


class Rpc(Section):
    """K2I's local socket for readers."""

    enabled: Flag = setting("Open the socket.", False)
    socket_path: FilePath = setting("Its path.", "./run/k2i.sock", validate_default=True)
    read_timeout_ms: Integer = setting("Longest wait of a read.", 1_000, ge=1, le=3_600_000)
    max_concurrent_scans: Integer = setting("Most scans at once.", 64, ge=1, le=100_000)
    scan_ttl_seconds: Integer = setting(
        "Time after which an abandoned scan ends.", 300, ge=1, le=86_400
    )
    max_frame_bytes: Integer = setting("Largest frame.", 67_108_864, ge=1, le=2_147_483_647)


class PrefectSettings(Section):
    """How the run is shown in Prefect."""

    enabled: Flag = setting("Track flushes and commits in Prefect.", True, native=True)
    generation_seconds: Number = setting(
        "Age at which one flow run hands over to the next.", 3_600.0, native=True, ge=1, le=604_800
    )
    generation_task_runs: Integer = setting(
        "Task runs after which it does.", 2_000, native=True, ge=1, le=1_000_000
    )
    claim_timeout_seconds: Number = setting(
        "Wait for Prefect to begin a call before the call is done without it.",
        1.0,
        native=True,
        ge=0.01,
        le=60,
    )
    artifact_interval_seconds: Number = setting(
        "Time between two updates of the run's summary.", 60.0, native=True, ge=1, le=86_400
    )
    start_server: Flag = setting("Start a local server, UI included.", False, native=True)
    server_host: Host = setting("Address of that server.", "127.0.0.1", native=True)
    server_port: Integer = setting("Port of that server.", 4_200, native=True, ge=0, le=65_535)


class Run(Section):
    """Bounds of one run."""

    drain_timeout_seconds: Number = setting(
        "Longest time that a stop may take.", 30.0, native=True, ge=0.1, le=3_600
    )
    retry_budget_seconds: Number = setting(
        "Time after which a passing fault is final.", 600.0, native=True, ge=0, le=86_400
    )
    max_dead_letters_per_minute: Integer = setting(
        "Dead letters within a minute after which the run stands still until `k2i schema resume`; "
        "0 for any number.",
        0,
        native=True,
        ge=0,
        le=1_000_000_000,
    )
    data_dir: FilePath | None = setting("Folder for what the run keeps.", None, native=True)

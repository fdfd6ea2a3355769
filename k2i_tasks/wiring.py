"""The one place that builds real objects from a configuration."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from k2i_tasks import logs, secrets
from k2i_tasks.calls import RetryPolicy
from k2i_tasks.clock import SystemClock
from k2i_tasks.codecs import MetadataColumns, make_decoder
from k2i_tasks.config import Config
from k2i_tasks.engine.triggers import Limits
from k2i_tasks.errors import K2IError
from k2i_tasks.iceberg.catalog import (
    check_catalog,
    check_store,
    find_table,
    guard_commits,
    open_catalog,
)
from k2i_tasks.iceberg.committer import Committer
from k2i_tasks.iceberg.dead_letters import DeadLetterTable
from k2i_tasks.iceberg.fixed import FixedTable, load, sink_record
from k2i_tasks.iceberg.positions import PositionColumns
from k2i_tasks.iceberg.schema import payload_columns
from k2i_tasks.iceberg.staging import Staging
from k2i_tasks.iceberg.state import SinkState
from k2i_tasks.journal import Journal
from k2i_tasks.kafka.client import consumer_settings
from k2i_tasks.kafka.embedded import EmbeddedBroker
from k2i_tasks.kafka.generator import OrderGenerator
from k2i_tasks.kafka.policy import look_at
from k2i_tasks.kafka.ranges import RangeReader, reading_settings
from k2i_tasks.kafka.source import KafkaSource
from k2i_tasks.kafka.start import lost_ranges, start_offsets
from k2i_tasks.metrics import Metrics
from k2i_tasks.operations import Operations, Tables
from k2i_tasks.ports import Settings, TrackerFactory
from k2i_tasks.runner import Runner
from k2i_tasks.types import Offsets, Ranges
from k2i_tasks.verification.accepted import accepted_gaps
from k2i_tasks.verification.report import VerifyReport
from k2i_tasks.verification.subject import Subject, VerifyOptions, must_be_told_apart
from k2i_tasks.verification.verifier import Progress, Verifier
from k2i_tasks.wal.log import WriteAheadLog

#: Partitions of the embedded broker's topic.
DEMO_PARTITIONS = 4
#: Longest wait for a broker to describe the topic, in seconds.
LOOK_SECONDS = 15.0
LETTER_POSITIONS = PositionColumns("partition", "offset", "topic")


def _secrets(config: Config) -> Mapping[str, str]:
    """The secrets, plain; from now on no log line shows one."""
    resolved = secrets.resolve_all(config)
    for value in resolved.values():
        logs.register_secret(value)
    return resolved


def identifier(config: Config) -> tuple[str, ...]:
    """Namespace levels and table name."""
    return (*config.iceberg.database_name.split("."), config.iceberg.table_name)


def build_runner(
    config: Config,
    *,
    tracker_factory: TrackerFactory,
    metrics: Metrics,
    records_max: int | None = None,
) -> Runner:
    """Everything one run needs, ready to `run()`. Opens the log folder; reaches no service yet.

    Raises:
        K2IError: a secret cannot be read, the log folder is in use or not writable.
    """
    resolved = _secrets(config)
    owner = uuid.uuid4().hex
    source = KafkaSource(
        consumer_settings(config.kafka, resolved),
        config.kafka.topic,
        poll_records_max=config.kafka.batch_size,
        max_message_bytes=config.kafka.max_message_bytes,
        watch_seconds=config.kafka.metadata_refresh_seconds,
        accept_gaps=config.kafka.on_gap == "continue",
        shared=config.kafka.assignment == "group",
    )
    log = WriteAheadLog.open(
        config.transaction_log.log_dir,
        segment_bytes_max=config.transaction_log.segment_size_mb << 20,
        segments_max=config.transaction_log.max_log_files,
        on_sync=metrics.on_wal_sync,
    )
    journal = Journal(
        log,
        checkpoint_entries_max=config.transaction_log.checkpoint_interval_entries,
        checkpoint_seconds=config.transaction_log.checkpoint_interval_seconds,
    )
    operations = build_operations(config, resolved, owner, journal, source.commit_offsets)
    runner = Runner(
        topic=config.kafka.topic,
        table=".".join(identifier(config)),
        source=source,
        operations=operations,
        decoder_for=lambda schema: _decoder(config, schema),
        start_rule=_StartRule(config),
        tracker_factory=tracker_factory,
        meter=metrics,
        clock=SystemClock(),
        settings=_settings(config, records_max),
        batch_prefix=owner[:12],
    )
    metrics.watch(runner.status)
    return runner


def build_operations(
    config: Config,
    resolved: Mapping[str, str],
    owner: str,
    journal: Journal,
    commit_offsets: Callable[[Offsets], None],
) -> Operations:
    """The actions on the configured table. Reaches the catalog with the first of them.

    Each thread gets a catalog of its own: PyIceberg's are not to be shared.

    Args:
        config: the whole configuration.
        resolved: plain secrets by the dotted name of their key.
        owner: id of this process run.
        journal: the open log.
        commit_offsets: tells Kafka the offsets.
    """
    iceberg = config.iceberg
    table = identifier(config)
    letters = (*table[:-1], iceberg.dead_letter_table_name)
    sink, branch = iceberg.sink, iceberg.branch
    group = config.kafka.consumer_group if config.kafka.assignment == "group" else None

    def connect() -> Tables:
        flushing = guard_commits(open_catalog(iceberg, resolved))
        committing = guard_commits(open_catalog(iceberg, resolved))
        lettering = Committer(committing, letters, sink=sink, branch="main", owner=owner)
        return Tables(
            Staging(flushing, table, config),
            Committer(committing, table, sink=sink, branch=branch, owner=owner, group=group),
            DeadLetterTable(flushing, lettering, config),
        )

    return Operations(config, connect, journal, commit_offsets)


def _settings(config: Config, records_max: int | None) -> Settings:
    buffer = config.buffer
    limits = Limits(
        flush_interval_seconds=buffer.flush_interval_seconds,
        flush_rows=buffer.flush_batch_size,
        flush_bytes=buffer.flush_size_bytes,
        buffer_bytes_max=buffer.size_bytes_max,
        low_water_ratio=buffer.low_water_ratio,
        poll_records_max=config.kafka.batch_size,
        batches_in_flight_max=buffer.max_batches_in_flight,
    )
    return Settings(
        limits=limits,
        retry=RetryPolicy(budget_seconds=config.run.retry_budget_seconds),
        drain_seconds=config.run.drain_timeout_seconds,
        records_max=records_max,
        # A member that the group has dropped hears of it with its next poll.
        rebalance_seconds=config.kafka.session_timeout_ms / 1000 + 30.0,
    )


def _decoder(config: Config, schema: pa.Schema | None) -> Any:
    names = config.iceberg.metadata_columns
    return make_decoder(
        config.kafka.format.type,
        columns=MetadataColumns(**names.model_dump()),
        table_schema=schema,
        max_message_bytes=config.kafka.max_message_bytes,
        mode=config.schema_evolution.mode,
    )


class _StartRule:
    """Where reading starts, as configured."""

    def __init__(self, config: Config) -> None:
        self._kafka = config.kafka

    def offsets(self, topic: Any, state: SinkState | None) -> Offsets:
        state = SinkState() if state is None else state
        topic_id = state.topic_ids.get(topic.topic)
        return start_offsets(topic, state.offsets, topic_id, self._kafka.auto_offset_reset)

    def lost(self, topic: Any, offsets: Offsets) -> Ranges:
        return lost_ranges(topic, offsets, self._kafka.on_gap)


def check_connections(config: Config) -> list[tuple[str, str | None]]:
    """Tries broker and topic, catalog, and store; for each its name and what is wrong, if any."""
    resolved = _secrets(config)

    def broker() -> None:
        source = KafkaSource(consumer_settings(config.kafka, resolved), config.kafka.topic)
        try:
            source.inspect(10.0)
        finally:
            source.close()

    iceberg = config.iceberg
    catalog = _tried(lambda: check_catalog(iceberg, resolved))
    store = "not tried, since the catalog is asked where it is"
    return [
        (f"Kafka topic {config.kafka.topic}", _tried(broker)),
        (f"{iceberg.catalog_type} catalog", catalog),
        ("object store", store if catalog else _tried(lambda: check_store(iceberg, resolved))),
    ]


def _tried(check: Callable[[], object]) -> str | None:
    try:
        check()
    except K2IError as error:
        return str(error)
    return None


def table_report(config: Config) -> dict[str, Any]:
    """What the committed table holds: rows, snapshots, size, recorded offsets. Reads metadata only.

    Raises:
        K2IError: catalog or table cannot be read.
    """
    catalog = open_catalog(config.iceberg, _secrets(config))
    branch, sink = config.iceberg.branch, config.iceberg.sink
    committer = Committer(catalog, identifier(config), sink=sink, branch=branch, owner="")
    head = committer.look()
    state = head.recorded.newest
    snapshot = head.table.metadata.snapshot_by_name(branch)
    summary = snapshot.summary.additional_properties if snapshot and snapshot.summary else {}
    return {
        "table": committer.name,
        "rows": int(summary.get("total-records", 0)),
        "data_files": int(summary.get("total-data-files", 0)),
        "size_bytes": int(summary.get("total-files-size", 0)),
        "snapshots": len(head.table.metadata.snapshots),
        "committed_at_ms": snapshot.timestamp_ms if snapshot else None,
        "epoch": state.epoch if state else 0,
        "offsets": {str(tp): offset for tp, offset in sorted(state.offsets.items())}
        if state
        else {},
    }


def verify_table(
    config: Config, options: VerifyOptions, progress: Progress = lambda _step, _done, _total: None
) -> VerifyReport:
    """Compares the committed table with its topic. Reads only; a run may go on meanwhile.

    Args:
        config: names the table, its catalog and the topic.
        options: what is compared.
        progress: told what is done, how far, and of how much.

    Raises:
        IntegrityError: the topic is not the one that the table was filled from, the table was
            rolled back, or it records nothing of the sink.
        ConfigError: rows cannot be told apart with this configuration.
        K2IError: Kafka, the catalog or the store cannot be read.
    """
    resolved = _secrets(config)
    iceberg, kafka = config.iceberg, config.kafka
    catalog = open_catalog(iceberg, resolved)
    columns = PositionColumns(
        iceberg.metadata_columns.partition,
        iceberg.metadata_columns.offset,
        iceberg.metadata_columns.topic,
    )
    # In this order: letters are committed before their rows, and the topic only grows.
    table = load(catalog, identifier(config))
    rows = FixedTable(table, iceberg.branch, columns, kafka.topic)
    record = sink_record(table, iceberg.sink, iceberg.branch, kafka.topic)
    must_be_told_apart(rows.name, record, config)
    beside = find_table(catalog, (*identifier(config)[:-1], iceberg.dead_letter_table_name))
    settings = consumer_settings(kafka, resolved)
    topic, compacted = look_at(settings, kafka.topic, LOOK_SECONDS)
    _StartRule(config).offsets(topic, record.state)
    folder = Path(config.transaction_log.log_dir)
    subject = Subject(
        rows=rows,
        letters=FixedTable(beside, "main", LETTER_POSITIONS, kafka.topic) if beside else None,
        record=record,
        topic=topic,
        compacted=compacted,
        reset=kafka.auto_offset_reset,
        keys=(columns.partition, columns.offset),
        sink=iceberg.sink,
        branch=iceberg.branch,
        accepted=accepted_gaps(folder, str(table.metadata.table_uuid), kafka.topic),
    )
    decoder = _decoder(config, payload_columns(rows.schema, iceberg.metadata_columns))
    reading = reading_settings(settings, "verify")
    return Verifier(subject, lambda: RangeReader(reading, kafka.topic), decoder, options).run(
        progress
    )


@contextmanager
def embedded(config: Config, limit: int | None, consumed: Callable[[], int]) -> Iterator[Config]:
    """A broker in this process and a stream of order events into a topic of its own.

    The broker forgets everything with the process, so each run has a topic of its own: offsets of
    an earlier one would not be found again.

    Args:
        config: what to run; its broker and topic are replaced.
        limit: events to generate; None for no end.
        consumed: events consumed so far, so that the generator does not run ahead.
    """
    topic = f"{config.kafka.topic}-{time.strftime('%Y%m%d-%H%M%S')}"
    with EmbeddedBroker({topic: DEMO_PARTITIONS}) as broker:
        servers = (broker.bootstrap,)
        kafka = config.kafka.model_copy(update={"bootstrap_servers": servers, "topic": topic})
        generator = OrderGenerator(
            broker.bootstrap, topic, partitions=DEMO_PARTITIONS, limit=limit, consumed=consumed
        )
        generator.start()
        try:
            yield config.model_copy(update={"kafka": kafka})
        finally:
            generator.stop()

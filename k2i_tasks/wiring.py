"""The one place that builds real objects from a configuration."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from k2i_tasks import secrets
from k2i_tasks.calls import RetryPolicy
from k2i_tasks.clock import SystemClock
from k2i_tasks.config import Config
from k2i_tasks.engine.triggers import Limits
from k2i_tasks.hot_tables import HotTables
from k2i_tasks.iceberg.catalog import (
    guard_commits,
    open_catalog,
)
from k2i_tasks.iceberg.committer import Committer
from k2i_tasks.iceberg.dead_letters import DeadLetterTable
from k2i_tasks.iceberg.staging import Staging
from k2i_tasks.iceberg.state import SinkState
from k2i_tasks.journal import Journal
from k2i_tasks.kafka.client import consumer_settings
from k2i_tasks.kafka.embedded import EmbeddedBroker
from k2i_tasks.kafka.generator import OrderGenerator
from k2i_tasks.kafka.letters import LetterTopic, LetterTopicSettings
from k2i_tasks.kafka.source import KafkaSource
from k2i_tasks.kafka.start import lost_ranges, start_offsets
from k2i_tasks.letterbox import Letterbox, claim_of
from k2i_tasks.metrics import Metrics
from k2i_tasks.operations import Operations, Tables
from k2i_tasks.ports import Settings, Source, TrackerFactory
from k2i_tasks.runner import Runner
from k2i_tasks.standstill import Gate
from k2i_tasks.types import Offsets, Ranges
from k2i_tasks.wal.log import WriteAheadLog
from k2i_tasks.wiring_decoders import Decoders, conflicts_of
from k2i_tasks.wiring_upkeep import upkeep_of

#: Partitions of the embedded broker's topic.
DEMO_PARTITIONS = 4
#: Longest wait for a broker to describe the topic, in seconds.
LOOK_SECONDS = 15.0


def build_runner(
    config: Config,
    *,
    tracker_factory: TrackerFactory,
    metrics: Metrics,
    records_max: int | None = None,
    clients: int = 1,
    source: Source | None = None,
    start_rule: StartRule | None = None,
    hot: HotTables | None = None,
) -> Runner:
    """Everything one run needs, ready to `run()`. Opens the log folder; reaches no service yet.

    Args:
        config: of one topic and its table.
        tracker_factory: makes what runs flushes and commits.
        metrics: told what happens.
        records_max: records after which it drains; None for no end.
        clients: Kafka clients that share this process's memory.
        source: where records come from; the whole topic when None.
        start_rule: where reading starts; as configured when None.
        hot: where queries find the table; None for no queries: rows leave memory once committed.

    Raises:
        K2IError: a secret cannot be read, the log folder is in use or not writable.
    """
    resolved = secrets.opened(config)
    owner = uuid.uuid4().hex
    source = source or open_source(config, config.kafka.topic, resolved, clients)
    conflicts = conflicts_of(config)
    decoders = Decoders(config, resolved, conflicts)
    journal = open_journal(config, metrics)
    operations = build_operations(config, resolved, owner, journal, source.commit_offsets)
    clock = SystemClock()
    return Runner(
        topic=config.kafka.topic,
        table=".".join(config.iceberg.identifier),
        source=source,
        operations=operations,
        decoder_for=lambda schema: decoders.decoder(schema, ahead=True),
        start_rule=start_rule or StartRule(config),
        gate=Gate(
            conflicts,
            clock,
            letters_per_minute_max=config.run.max_dead_letters_per_minute,
            orders=Path(config.transaction_log.log_dir),
        ),
        tracker_factory=tracker_factory,
        meter=metrics,
        clock=clock,
        settings=_settings(config, records_max),
        batch_prefix=owner[:12],
        upkeep_factory=upkeep_of(config, resolved, operations.lane, metrics, clock),
        buffer=None if hot is None else hot.buffer(config, resolved),
    )


def open_source(
    config: Config, topic: str, resolved: Mapping[str, str], clients: int
) -> KafkaSource:
    """What reads `topic`. Reaches nothing yet.

    Args:
        config: how, and into how much memory.
        topic: the topic.
        resolved: plain secrets by the dotted name of their key.
        clients: Kafka clients that share this process's memory.
    """
    kafka, room = config.kafka, config.buffer.size_bytes_max
    return KafkaSource(
        consumer_settings(kafka, resolved, buffer_bytes=room, clients=clients),
        topic,
        poll_records_max=kafka.batch_size,
        max_message_bytes=kafka.max_message_bytes,
        watch_seconds=kafka.metadata_refresh_seconds,
        accept_gaps=kafka.on_gap == "continue",
        shared=kafka.assignment == "group",
    )


def open_journal(config: Config, metrics: Metrics) -> Journal:
    """The configured write-ahead log, open. May block on the disk.

    Raises:
        K2IError: its folder is in use or not writable.
    """
    kept = config.transaction_log
    log = WriteAheadLog.open(
        kept.log_dir,
        segment_bytes_max=kept.segment_size_mb << 20,
        segments_max=kept.max_log_files,
        on_sync=metrics.on_wal_sync,
    )
    return Journal(
        log,
        checkpoint_entries_max=kept.checkpoint_interval_entries,
        checkpoint_seconds=kept.checkpoint_interval_seconds,
    )


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
    table, letters = iceberg.identifier, iceberg.dead_letter_identifier
    sink, branch = iceberg.sink, iceberg.branch
    group = config.kafka.consumer_group if config.kafka.assignment == "group" else None

    def connect() -> Tables:
        flushing = guard_commits(open_catalog(iceberg, resolved))
        committing = guard_commits(open_catalog(iceberg, resolved))
        lettering = Committer(committing, letters, sink=sink, branch="main", owner=owner)
        staging = Staging(flushing, table, config)
        committer = Committer(committing, table, sink=sink, branch=branch, owner=owner, group=group)
        letterbox = Letterbox(
            DeadLetterTable(flushing, lettering, config),
            letter_topic(config, resolved),
            to_table=config.dead_letters.to != "topic",
            confirm=claim_of(committer, staging),
            show_payloads=config.dead_letters.log_payloads,
        )

        def close() -> None:
            flushing.close()
            committing.close()

        return Tables(staging, committer, letterbox, close)

    return Operations(config, connect, journal, commit_offsets)


def letter_topic(config: Config, resolved: Mapping[str, str]) -> LetterTopic | None:
    """What sends dead letters to the configured topic; None for no topic. Reaches nothing yet."""
    letters, iceberg = config.dead_letters, config.iceberg
    if letters.to == "table":
        return None
    table = ".".join(iceberg.identifier)
    where = LetterTopicSettings(
        topic=config.dead_letter_topic,
        table=table,
        name=f"{config.kafka.consumer_group}-dead-letters-{table}-{iceberg.sink}",
        partitions=letters.topic_partitions,
        replicas=letters.topic_replication_factor,
    )
    return LetterTopic(consumer_settings(config.kafka, resolved), where)


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
        encode_rows=buffer.encode_rows,
    )
    return Settings(
        limits=limits,
        retry=RetryPolicy(budget_seconds=config.run.retry_budget_seconds),
        drain_seconds=config.run.drain_timeout_seconds,
        records_max=records_max,
        # A member that the group has dropped hears of it with its next poll.
        rebalance_seconds=config.kafka.session_timeout_ms / 1000 + 30.0,
        decides_anew=config.kafka.assignment == "group" or bool(config.iceberg.identifier_fields),
    )


class StartRule:
    """Where reading starts, as configured."""

    def __init__(self, config: Config) -> None:
        self._kafka = config.kafka

    def offsets(self, topic: Any, state: SinkState | None) -> Offsets:
        state = SinkState() if state is None else state
        topic_id = state.topic_ids.get(topic.topic)
        return start_offsets(topic, state.offsets, topic_id, self._kafka.auto_offset_reset)

    def lost(self, topic: Any, offsets: Offsets) -> Ranges:
        return lost_ranges(topic, offsets, self._kafka.on_gap)


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

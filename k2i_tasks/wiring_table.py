"""What is asked of the table, its topic and their services outside of an ingest run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from k2i_tasks import secrets
from k2i_tasks.config import Config
from k2i_tasks.config.plans import plan
from k2i_tasks.errors import Component, ConfigError, K2IError, ServiceError
from k2i_tasks.iceberg.beside import table_and_letters
from k2i_tasks.iceberg.catalog import (
    check_catalog,
    check_store,
    open_catalog,
)
from k2i_tasks.iceberg.committer import Committer
from k2i_tasks.iceberg.fixed import FixedTable, sink_record
from k2i_tasks.iceberg.letters import Letters, of_topic
from k2i_tasks.iceberg.positions import PositionColumns
from k2i_tasks.iceberg.schema import payload_columns
from k2i_tasks.kafka.client import consumer_settings
from k2i_tasks.kafka.discovery import TopicNames
from k2i_tasks.kafka.policy import look_at
from k2i_tasks.kafka.ranges import RangeReader, reading_settings
from k2i_tasks.kafka.sent_letters import Places, sent_letters
from k2i_tasks.kafka.source import KafkaSource
from k2i_tasks.verification.accepted import accepted_gaps
from k2i_tasks.verification.report import VerifyReport
from k2i_tasks.verification.subject import Subject, VerifyOptions, must_be_told_apart
from k2i_tasks.verification.verifier import Progress, Verifier
from k2i_tasks.wiring import StartRule
from k2i_tasks.wiring_decoders import Decoders, schemas_of

#: Longest wait for a broker to describe the topic, in seconds.
LOOK_SECONDS = 15.0


def check_connections(config: Config) -> list[tuple[str, str | None]]:
    """Tries all services that a run needs; for each its name and what is wrong, if any."""
    resolved = secrets.opened(config)

    def broker() -> None:
        if config.routing.enabled:
            _must_have_topics(config, resolved)
            return
        source = KafkaSource(consumer_settings(config.kafka, resolved), config.kafka.topic)
        try:
            source.inspect(10.0)
        finally:
            source.close()

    iceberg = config.iceberg
    catalog = _tried(lambda: check_catalog(iceberg, resolved))
    store = "not tried, since the catalog is asked where it is"
    schemas = schemas_of(config, resolved)
    many = config.routing.enabled
    return [
        ("Kafka's topics" if many else f"Kafka topic {config.kafka.topic}", _tried(broker)),
        *([(f"schema registry {schemas.where}", _tried(schemas.check))] if schemas else []),
        (f"{iceberg.catalog_type} catalog", catalog),
        ("object store", store if catalog else _tried(lambda: check_store(iceberg, resolved))),
    ]


def _must_have_topics(config: Config, resolved: Mapping[str, str]) -> None:
    """Refuses topics that were chosen and are not there, or have no table.

    Raises:
        K2IError: the first of them, or why Kafka cannot be asked.
    """
    known = TopicNames(consumer_settings(config.kafka, resolved)).ask(LOOK_SECONDS)
    topics = config.chosen_topics(known)
    for topic in topics:
        if topic not in known:
            raise ServiceError(
                f"There is no topic {topic}.",
                component=Component.KAFKA,
                remedy="Make it, or correct routing.topics.",
            )
    for topic, why in plan(config, topics, config.routing.max_tables).refused.items():
        raise ConfigError(f"Topic {topic} is not read: {why}", field="routing")


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
    catalog = open_catalog(config.iceberg, secrets.opened(config))
    branch, sink = config.iceberg.branch, config.iceberg.sink
    committer = Committer(catalog, config.iceberg.identifier, sink=sink, branch=branch, owner="")
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


def _without(sent: Places, letters: Letters, topic: str) -> Places:
    """Letters of a topic that are not in the table of letters, which knows what became of them."""
    chosen = of_topic(topic, letters.chosen("", done=True))
    kept = {(number, at) for _, number, at in letters.keys(chosen)}
    pairs = zip(sent[0].tolist(), sent[1].tolist(), strict=True)
    fresh = np.array([pair not in kept for pair in pairs], np.bool_)
    return sent[0][fresh], sent[1][fresh]


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
    if config.routing.by_value:
        raise ConfigError(
            "This table has only some records of its topic, by their values: it cannot be compared "
            "with the topic.",
            field="routing.topic",
        )
    resolved = secrets.opened(config)
    iceberg, kafka = config.iceberg, config.kafka
    catalog = open_catalog(iceberg, resolved)
    columns = PositionColumns(
        iceberg.metadata_columns.partition,
        iceberg.metadata_columns.offset,
        iceberg.metadata_columns.topic,
    )
    # In this order: the topic only grows.
    table, letters = table_and_letters(catalog, iceberg, kafka.topic)
    rows = FixedTable(table, iceberg.branch, columns, kafka.topic)
    record = sink_record(table, iceberg.sink, iceberg.branch, kafka.topic)
    must_be_told_apart(rows.name, record, config)
    settings = consumer_settings(kafka, resolved)
    topic, compacted = look_at(settings, kafka.topic, LOOK_SECONDS)
    StartRule(config).offsets(topic, record.state)
    sent = None
    if config.dead_letters.to == "topic":
        sent = sent_letters(
            settings,
            config.dead_letter_topic,
            topic=kafka.topic,
            table=rows.name,
            seconds=LOOK_SECONDS,
        )
        if letters is not None:
            sent = _without(sent, Letters(letters.table), kafka.topic)
    folder = Path(config.transaction_log.log_dir)
    subject = Subject(
        rows=rows,
        letters=letters,
        record=record,
        topic=topic,
        compacted=compacted,
        reset=kafka.auto_offset_reset,
        keys=(columns.partition, columns.offset),
        sink=iceberg.sink,
        branch=iceberg.branch,
        accepted=accepted_gaps(folder, str(table.metadata.table_uuid), kafka.topic),
        sent=sent,
    )
    payload = payload_columns(rows.schema, iceberg.metadata_columns)
    decoder = Decoders(config, resolved).decoder(payload)
    reading = reading_settings(settings, "verify")
    return Verifier(subject, lambda: RangeReader(reading, kafka.topic), decoder, options).run(
        progress
    )

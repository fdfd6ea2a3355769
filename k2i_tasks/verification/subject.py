"""What is verified, and how much of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from k2i_tasks.config import Config
from k2i_tasks.errors import ConfigError
from k2i_tasks.iceberg.fixed import FixedTable, SinkRecord
from k2i_tasks.kafka.sent_letters import Places
from k2i_tasks.kafka.state import TopicState
from k2i_tasks.types import OffsetRange
from k2i_tasks.verification.report import Values


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """What is to be verified.

    Args:
        values: which values are compared.
        sample_rows: about so many records, when `values` is "sampled".
        seed: of the sample.
        show_values: whether differences tell the values.
        gap_seconds: longest time that gaps are looked up in Kafka; 0 for no end.
    """

    values: Values = "sampled"
    sample_rows: int = 10_000
    seed: int = 0
    show_values: bool = False
    gap_seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class Subject:
    """What is verified, as of one moment.

    Args:
        rows: the table.
        letters: the dead-letter table, read after it; None when there is none.
        record: what the table records of the sink.
        topic: the topic, looked at after the table: it may be ahead of it.
        compacted: whether records above the low watermark may be gone.
        reset: where a topic begins to be read that the table knows nothing of.
        keys: names of the table's columns with partition and offset.
        sink, branch: by name.
        accepted: gaps that were accepted.
        sent: partitions and offsets of letters that are in a topic, and not in the table of them.
    """

    rows: FixedTable
    letters: FixedTable | None
    record: SinkRecord
    topic: TopicState
    compacted: bool
    reset: Literal["earliest", "latest"]
    keys: tuple[str, str]
    sink: str
    branch: str
    accepted: Mapping[int, Sequence[OffsetRange]]
    sent: Places | None = None


def must_be_told_apart(table: str, record: SinkRecord, config: Config) -> None:
    """Refuses a table whose rows of this sink look like others in it.

    Raises:
        ConfigError: another sink has the same topic, or rows do not tell their topic and there are
            several.
    """
    if record.rivals:
        raise ConfigError(
            f"Table {table} holds topic {config.kafka.topic} of other sinks as well "
            f"({', '.join(record.rivals)}): their rows cannot be told apart.",
            field="iceberg.sink",
            remedy="Verify a table that one sink fills from this topic.",
        )
    if record.other_topics and not config.iceberg.metadata_columns.topic:
        raise ConfigError(
            f"Table {table} holds other topics as well ({', '.join(sorted(record.other_topics))}), "
            "and its rows do not tell theirs.",
            field="iceberg.metadata_columns.topic",
            remedy="Such a table cannot be verified; keep the topic's column in the next one.",
        )

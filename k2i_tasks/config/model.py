"""The whole configuration as one frozen value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from pydantic import PrivateAttr, model_validator

from k2i_tasks.config.checks import contradictions
from k2i_tasks.config.fields import Section, setting
from k2i_tasks.config.model_dead_letters import DeadLetters
from k2i_tasks.config.model_iceberg import Iceberg
from k2i_tasks.config.model_kafka import Kafka
from k2i_tasks.config.model_maintenance import Maintenance
from k2i_tasks.config.model_query import Query
from k2i_tasks.config.model_routing import Routing
from k2i_tasks.config.model_runtime import (
    Buffer,
    Monitoring,
    PrefectSettings,
    Rpc,
    Run,
    SchemaEvolution,
    TransactionLog,
)
from k2i_tasks.errors import ConfigError

#: What the name of a topic of dead letters ends with, behind that of the topic they are of.
LETTERS_SUFFIX = "__dead_letters"


class Config(Section):
    """All settings of one ingestion, checked one by one and against each other."""

    kafka: Kafka = setting("What is consumed.")
    routing: Routing = setting("Many topics and tables.", Routing(), native=True)
    schema_evolution: SchemaEvolution = setting("Changes of the schema.", SchemaEvolution())
    iceberg: Iceberg = setting("Where it lands.")
    dead_letters: DeadLetters = setting(
        "Records that cannot be decoded.", DeadLetters(), native=True
    )
    buffer: Buffer = setting("Rows in memory.", Buffer())
    transaction_log: TransactionLog = setting("The write-ahead log.", TransactionLog())
    maintenance: Maintenance = setting("Upkeep of the table.", Maintenance())
    monitoring: Monitoring = setting("Health, metrics, logs.", Monitoring())
    query: Query = setting("Queries of a running flow.", Query(), native=True)
    rpc: Rpc = setting("K2I's local socket.", Rpc())
    prefect: PrefectSettings = setting("Prefect.", PrefectSettings(), native=True)
    run: Run = setting("Bounds of one run.", Run(), native=True)

    @property
    def dead_letter_topic(self) -> str:
        """The dead-letter topic's name, whether given or derived."""
        return self.dead_letters.topic or f"{self.kafka.topic}{LETTERS_SUFFIX}"

    def chosen_topics(self, known: Iterable[str]) -> list[str]:
        """The topics that many are chosen from; none that is for dead letters is found by pattern.

        Args:
            known: names of all topics there are.
        """
        letters = self.dead_letters
        if letters.to != "table":
            known = [
                name
                for name in known
                if name != letters.topic and not name.endswith(LETTERS_SUFFIX)
            ]
        return self.routing.chosen(known)

    _load_notes: tuple[str, ...] = PrivateAttr(default=())

    @property
    def load_notes(self) -> tuple[str, ...]:
        """What the reading of the file had to remark, one sentence each."""
        return self._load_notes

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        found = contradictions(self)
        if found:
            text = "; ".join(f"{field}: {what}" for field, what in found)
            raise ConfigError(f"The configuration contradicts itself: {text}.", field=found[0][0])
        return self

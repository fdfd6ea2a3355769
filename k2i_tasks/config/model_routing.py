"""Settings of a run over many topics and tables."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, StringConstraints

from k2i_tasks.config.fields import Integer, PlainName, Section, Text, setting
from k2i_tasks.config.model_kafka import Topic

#: What a template is replaced by: `{topic}`, `{1}`, `{name}`.
PLACE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*|[0-9]{1,2})\}")
_TEMPLATE_REST = re.compile(r"[A-Za-z0-9_-]*")


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return text


def _template(text: str) -> str:
    if not _TEMPLATE_REST.fullmatch(PLACE.sub("", text)):
        raise ValueError(
            "must be letters, digits, _ and - around {topic}, {1} or {name} for a group of the "
            "regular expression"
        )
    return text


Pattern = Annotated[
    str, StringConstraints(min_length=1, max_length=1_000), AfterValidator(_pattern)
]
Template = Annotated[
    str, StringConstraints(min_length=1, max_length=255), AfterValidator(_template)
]


class RoutedTables(Section):
    """The tables of some topics. Of several entries that match a topic the first counts."""

    topic: Pattern = setting(
        "Regular expression that matches the whole name of each of these topics.", native=True
    )
    value: Pattern | None = setting(
        "Regular expression that matches the whole value of `by_field` or `by_header`; any if not "
        "given.",
        None,
        native=True,
    )
    table_name: Template | None = setting(
        "Name of their tables, in place of `routing.table_name`.", None, native=True
    )
    settings: dict[str, Any] = setting(
        'Any settings of one table, laid over the others: `{ kafka.format.type = "avro" }`, or '
        "as tables, `[routing.tables.settings.iceberg]`. Texts may hold `{topic}` and `{value}`.",
        {},
        native=True,
        max_length=100,
    )


class Routing(Section):
    """Many topics into many tables, in one process. Without topics here, `kafka.topic` is read."""

    topic: Topic | None = setting(
        "Only this one of the topics: what a command looks at, or a run that reads it alone.",
        None,
        native=True,
    )
    value: Text | None = setting(
        "With `topic` and `by_field` or `by_header`: only the table of this value, for commands.",
        None,
        native=True,
    )
    topics: tuple[Topic, ...] = setting("Topics by name.", (), native=True, max_length=1_000)
    topic_pattern: Pattern | None = setting(
        "Regular expression: each topic whose whole name it matches is read too, also one that is "
        "made later. Names that begin with `_` are left to `routing.topics`.",
        None,
        native=True,
    )
    exclude_pattern: Pattern | None = setting(
        "Regular expression: topics that `topic_pattern` is not to find.", None, native=True
    )
    table_name: Template = setting(
        "Name of a topic's table: `{topic}`, `{value}`, or `{1}` and `{name}` for groups of the "
        "expression that has found the topic. What a table's name cannot have becomes `_`.",
        "{topic}",
        native=True,
    )
    by_field: Text | None = setting(
        "Member of payloads, JSON, Avro or Protobuf, whose value decides on the table too; nested "
        "ones as `a.b`.",
        None,
        native=True,
    )
    by_header: Text | None = setting(
        "Header of records whose value decides on the table too.", None, native=True
    )
    value_missing: PlainName = setting(
        "What `{value}` is for records without one: no such member or header, or no text, number "
        "or boolean in it.",
        "other",
        native=True,
    )
    discovery_seconds: Integer = setting(
        "Time between two looks for new topics.", 30, native=True, ge=1, le=86_400
    )
    restart_seconds_max: Integer = setting(
        "Longest wait before a table that failed is tried again.", 300, native=True, ge=1, le=86_400
    )
    max_tables: Integer = setting(
        "Most topics at a time; `buffer.max_size_mb` is shared by all.",
        100,
        native=True,
        ge=1,
        le=1_000,
    )
    tables: tuple[RoutedTables, ...] = setting(
        "What is different for some topics.", (), native=True, max_length=1_000
    )

    @property
    def enabled(self) -> bool:
        """Whether topics are chosen here."""
        return bool(self.topics or self.topic_pattern)

    @property
    def by_value(self) -> bool:
        """Whether the records of one topic go to several tables."""
        return bool(self.by_field or self.by_header)

    def text_of(self, value: str | None) -> str:
        """What `{value}` is for a record with this value, or with none."""
        return self.value_missing if value is None else value

    def chosen(self, known: Iterable[str]) -> list[str]:
        """The topics to read, in order: those named, and those of `known` that are to be found."""
        found = set(self.topics)
        for topic in known if self.topic_pattern is not None else ():
            # What Kafka and its tools keep for themselves begins with a `_`.
            wanted = not topic.startswith("_") and re.fullmatch(self.topic_pattern or "", topic)
            if wanted and not re.fullmatch(self.exclude_pattern or "", topic):
                found.add(topic)
        return sorted(found)

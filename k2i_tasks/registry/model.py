"""What a registry keeps: schemas, and how they refer to one another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reference:
    """One schema's word for another: the name it uses, and where that one is registered."""

    name: str
    subject: str
    version: int


@dataclass(frozen=True, slots=True)
class Registered:
    """A schema as the registry answers.

    Args:
        kind: AVRO, PROTOBUF, JSON, or another word of the registry's.
        text: the schema.
        references: what it refers to itself.
        id: its id, where the answer has it.
    """

    kind: str
    text: str
    references: tuple[Reference, ...] = ()
    id: int | None = None


@dataclass(frozen=True, slots=True)
class WriterSchema:
    """A schema with all that it refers to, directly or not.

    Args:
        id: the id that stands in front of each payload.
        kind: AVRO, PROTOBUF, JSON, or another word of the registry's.
        text: the schema.
        references: name, as the schemas use it, -> text; what others refer to comes before them.
    """

    id: int
    kind: str
    text: str
    references: Mapping[str, str]

"""Every error K2I raises on purpose. Whether an operation may be retried is its type.

    K2IError
      ConfigError              the configuration is wrong: fix the named field          exit 1
      TransientError           a service is away or busy: retried                       by component
        BusyError              all places for queries are taken: ask again in a while    exit 10
        CommitConflictError    another writer moved the table's head: looked at, retried
          SchemaRacedError     another writer has the field ids of staged files: written anew
      CommitStateUnknownError  the catalog's answer was lost: looked at, retried
      FencedError              another process owns this table now: stop                 exit 3
        PartitionsLostError    another member of our group owns partitions of ours: read anew
      DecodeError              one record is bad: becomes a dead letter, never leaves `codecs`
        ConflictError          it is sound, but the table has no place for it: by policy
      SchemaConflictError      table and records disagree: pause or stop, report         exit 3
        SchemaMovedError       another writer was first with a column: read anew
      IntegrityError           what is stored contradicts itself: stop, keep the evidence
      ServiceError             a service refused for good (login, unknown topic, rights)
      QueryLimitError          a query met the limit of its time, memory or result       exit 10
      QueryCancelledError      whoever asked is gone                                     exit 10

Retry is an allow-list: only `TransientError` and `CommitStateUnknownError` are retried. Each error
says what happened, where, and what the operator does about it.
"""

from __future__ import annotations

from enum import StrEnum


class Component(StrEnum):
    """The part of the system an error belongs to; decides the exit code."""

    CONFIG = "config"
    KAFKA = "kafka"
    REGISTRY = "registry"
    ICEBERG = "iceberg"
    STORAGE = "storage"
    WAL = "txlog"
    HEALTH = "health"
    RUNTIME = "runtime"


#: The exit codes of K2I's command line, kept for scripts written against it.
EXIT_CODES: dict[Component, int] = {
    Component.CONFIG: 1,
    Component.KAFKA: 2,
    # K2I has none for it; it is on the side where records come from.
    Component.REGISTRY: 2,
    Component.ICEBERG: 3,
    Component.STORAGE: 4,
    Component.WAL: 5,
    Component.HEALTH: 6,
    Component.RUNTIME: 10,
}
EXIT_SIGNAL = 130
#: Ours, of `k2i verify`: the table is not the topic; it could not be said of all of it.
EXIT_DIFFERS = 7
EXIT_INCOMPLETE = 8


class K2IError(Exception):
    """Base of all errors raised on purpose.

    Args:
        what: what happened and where, one sentence, no payload values and no secrets.
        component: the part it belongs to.
        remedy: what the operator does about it, one sentence; may be empty.
    """

    component: Component = Component.RUNTIME

    def __init__(self, what: str, *, component: Component | None = None, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy
        if component is not None:
            self.component = component

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.component]

    def __str__(self) -> str:
        return f"{self.what} {self.remedy}".rstrip()


class ConfigError(K2IError):
    """The configuration is wrong. `field` names the key, as `section.key`."""

    component = Component.CONFIG

    def __init__(self, what: str, *, field: str = "", remedy: str = "") -> None:
        super().__init__(what, remedy=remedy)
        self.field = field


class TransientError(K2IError):
    """A broker, registry, store or catalog is away or busy. Retried within a bounded time."""


class CommitConflictError(TransientError):
    """Another writer moved the head of the table between our look and our commit."""

    component = Component.ICEBERG


class SchemaRacedError(CommitConflictError):
    """Another writer changed the schema that staged files were written for, before their commit.

    Their field ids may be other columns' now, so they are never committed: the rows are written
    anew, or, after a crash, read again. Nothing for an operator to do.
    """


class BusyError(TransientError):
    """As many queries run, or wait, as may. Ask again in a while, or raise `query.max_queries`."""


class CommitStateUnknownError(K2IError):
    """A commit was sent and its outcome is not known. The table is read before anything else."""

    component = Component.ICEBERG


class FencedError(K2IError):
    """Another process has claimed this table, or the recorded offsets are not the batch's start.

    Stop. Nothing of ours may be committed any more; the other process continues from the table.
    """

    component = Component.ICEBERG


class PartitionsLostError(FencedError):
    """Another member of the consumer group has claimed partitions that a batch of ours covers.

    The batch is given up, and what is still ours is read again from the table's offsets. It is
    final only when the group does not give us partitions anew.
    """


class DecodeError(K2IError):
    """One record cannot be decoded. Carries a stable `code` for counters; never leaves `codecs`."""

    def __init__(self, code: str, what: str) -> None:
        super().__init__(what)
        self.code = code


class ConflictError(DecodeError):
    """A sound record holds what the table has no place for. `path` is the field's, dotted.

    What becomes of it is the operator's choice: `schema_evolution.on_breaking_change`.
    """

    def __init__(self, code: str, what: str, path: str) -> None:
        super().__init__(code, what)
        self.path = path


class SchemaConflictError(K2IError):
    """The table's schema and the records' schema cannot be reconciled by a safe promotion."""

    component = Component.ICEBERG


class SchemaMovedError(SchemaConflictError):
    """Another writer gave the table a column that rows of ours, not committed yet, contradict.

    The rows are given up and read again, by the columns that the table has now. It is final only
    when that comes to the same.
    """


class IntegrityError(K2IError):
    """Stored state contradicts itself or Kafka (rollback, recreated topic, lost range, bad WAL).

    Stop, change nothing, name both sides; the operator chooses how to go on.
    """


class ServiceError(K2IError):
    """A service refused for good: login, unknown topic, missing rights, full or read-only disk."""


class QueryLimitError(K2IError):
    """A query would take more time or memory than one may. Narrow it, or raise the limit."""


class QueryCancelledError(K2IError):
    """Whoever asked does not wait for the answer any more."""


def is_transient(error: BaseException) -> bool:
    """Whether an operation that failed with `error` may be tried again."""
    return isinstance(error, (TransientError, CommitStateUnknownError))


def component_of(error: BaseException) -> str:
    """The component an error belongs to; what is not one of ours belongs to the runtime."""
    return error.component.value if isinstance(error, K2IError) else Component.RUNTIME.value


def health_component_of(error: BaseException) -> str:
    """The component of the health page that an error speaks of.

    What the catalog answers, or does not, is not the table's state; and a question about the schema
    waits for an operator.
    """
    if isinstance(error, SchemaConflictError):
        return "schema"
    of_catalog = (TransientError, CommitStateUnknownError, ServiceError)
    if isinstance(error, of_catalog) and not isinstance(error, CommitConflictError):
        return "catalog" if error.component is Component.ICEBERG else error.component.value
    return component_of(error)

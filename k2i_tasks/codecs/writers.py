"""Decoders of writers' schemas, made in the background, so that decoding itself never waits."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Generic, TypeVar

from k2i_tasks.calls import RetryPolicy
from k2i_tasks.codecs.frames import Frames, MessagePath, Writer
from k2i_tasks.errors import DecodeError, TransientError
from k2i_tasks.registry import Schemas, WriterSchema

#: Writers that are kept ready; one batch may have more.
KEPT_MAX = 500
#: Longest that the registry's "not known" is believed, in seconds.
UNKNOWN_SECONDS_MAX = 30.0
#: Codes of such answers begin with this; what else is refused is refused for good.
_OF_REGISTRY = "registry."

Made = TypeVar("Made")
#: Makes what decodes the payloads of a schema. May block; raises DecodeError where it cannot.
Make = Callable[[WriterSchema, MessagePath], Made]


@dataclass(frozen=True, slots=True)
class _Ready(Generic[Made]):
    """What a writer came to; an error is believed until then."""

    made: Made | DecodeError
    until: float


class Writers(Generic[Made]):
    """Keeps what decodes each writer's payloads. For one thread, beside its own.

    Args:
        schemas: the registry's.
        make: makes one.
        unknown_seconds: how long the registry's "not known" is believed.
        policy: back-off while the registry is away; its budget is not used.
        monotonic: seconds that only rise.
    """

    def __init__(
        self,
        schemas: Schemas,
        make: Make[Made],
        *,
        unknown_seconds: float = UNKNOWN_SECONDS_MAX,
        policy: RetryPolicy | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._schemas = schemas
        self._make = make
        self._unknown_seconds = min(unknown_seconds, UNKNOWN_SECONDS_MAX)
        self._policy = policy or RetryPolicy()
        self._monotonic = monotonic
        self._kept: OrderedDict[Writer, _Ready[Made]] = OrderedDict()
        self._changed = threading.Condition()
        self._worker: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._failures = 0
        self._not_before = 0.0

    def __getitem__(self, writer: Writer) -> Made | DecodeError:
        """What decodes the payloads of `writer`, or why nothing does. Does not block.

        Raises:
            KeyError: `prepare` was not asked for it, or not with success.
        """
        return self._kept[writer].made

    def prepare(self, writers: Collection[Writer], timeout_seconds: float) -> frozenset[Writer]:
        """Gets `writers` ready. Blocks for the time-out at most, and less when all are.

        Returns:
            Those that are not ready: ask again, the work goes on.

        Raises:
            TransientError: the registry is away. Each failure is told once; ask again.
            K2IError: it refuses us, or there is no registry.
        """
        with self._changed:
            missing = self._missing(writers)
            if not missing:
                return missing
            if self._worker is None and self._monotonic() >= self._not_before:
                self._begin(missing)
            if timeout_seconds > 0:
                self._changed.wait_for(lambda: self._worker is None, timeout_seconds)
            missing = self._missing(writers)
            if missing and self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            return missing

    def _missing(self, writers: Collection[Writer]) -> frozenset[Writer]:
        """Those without an answer that counts; the others are as good as used now."""
        missing = []
        now = self._monotonic()
        for writer in writers:
            ready = self._kept.get(writer)
            if ready is None or now >= ready.until:
                missing.append(writer)
            else:
                self._kept.move_to_end(writer)
        for _ in range(len(self._kept) - max(KEPT_MAX, len(writers))):
            self._kept.popitem(last=False)
        return frozenset(missing)

    def _begin(self, missing: frozenset[Writer]) -> None:
        self._failure = None
        self._worker = threading.Thread(
            target=self._work, args=(sorted(missing),), name="k2i-schemas", daemon=True
        )
        self._worker.start()

    def _work(self, writers: list[Writer]) -> None:
        """Makes what it can; ends with the first failure. On a thread of its own."""
        failure: BaseException | None = None
        try:
            for writer in writers:
                made = self._made(writer)
                seconds = self._unknown_seconds if is_unknown(made) else float("inf")
                with self._changed:
                    self._kept[writer] = _Ready(made, self._monotonic() + seconds)
        except BaseException as error:
            # Whatever it is: the thread that asks is told.
            failure = error
        with self._changed:
            self._worker = None
            self._failure = failure
            self._failures = 0 if failure is None else self._failures + 1
            if isinstance(failure, TransientError):
                self._not_before = self._monotonic() + self._policy.wait_seconds(self._failures)
            self._changed.notify_all()

    def _made(self, writer: Writer) -> Made | DecodeError:
        try:
            return self._make(self._schemas.schema(writer.schema_id), writer.path)
        except DecodeError as error:
            return error


def is_unknown(made: object) -> bool:
    """Whether this stands for a schema that the registry does not know, and may come to know."""
    return isinstance(made, DecodeError) and made.code.startswith(_OF_REGISTRY)


def ready_records(
    writers: Writers[Made], frames: Frames, records: int, timeout_seconds: float
) -> int:
    """How many of the first `records` are ready; see `Decoder.prepare`."""
    wanted = {group.writer: int(group.records[0]) for group in frames.groups}
    missing = writers.prepare(wanted, 0.0)
    if any(wanted[writer] == 0 for writer in missing):
        missing = writers.prepare(wanted, timeout_seconds)
    return min((wanted[writer] for writer in missing), default=records)

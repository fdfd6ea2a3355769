"""From librdkafka's error codes to our errors, and a bounded memory of what it complained about."""

from __future__ import annotations

import logging
import re
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException

from k2i_tasks.clock import Clock, SystemClock
from k2i_tasks.errors import (
    Component,
    ConfigError,
    IntegrityError,
    K2IError,
    ServiceError,
    TransientError,
)
from k2i_tasks.status import ErrorNote

log = logging.getLogger(__name__)

#: Distinct complaints that are kept for people; older ones are only counted.
NOTES_MAX = 50

#: The broker refused who we are, or we refused who it is. Trying again cannot help.
LOGIN = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError._SSL,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.ILLEGAL_SASL_STATE,
    }
)
RIGHTS = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
UNKNOWN_TOPIC = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
    }
)
OUT_OF_RANGE = frozenset(
    {
        KafkaError._AUTO_OFFSET_RESET,
        KafkaError._LOG_TRUNCATION,
        KafkaError.OFFSET_OUT_OF_RANGE,
    }
)
#: Bytes that cannot be read as records. One may be a broken connection; the same for ever is not.
UNREADABLE = frozenset(
    {
        KafkaError._BAD_MSG,
        KafkaError._BAD_COMPRESSION,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
    }
)
#: What passes by itself: the allow-list of what may be tried again.
TRANSIENT = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._FAIL,
        KafkaError._IN_PROGRESS,
        KafkaError._INTR,
        KafkaError._MAX_POLL_EXCEEDED,
        KafkaError._MSG_TIMED_OUT,
        KafkaError._NOENT,
        KafkaError._OUTDATED,
        KafkaError._PREV_IN_PROGRESS,
        KafkaError._RESOLVE,
        KafkaError._RETRY,
        KafkaError._STATE,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._TRANSPORT,
        KafkaError._UNKNOWN_BROKER,
        KafkaError._WAIT_CACHE,
        KafkaError._WAIT_COORD,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NOT_CONTROLLER,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.PREFERRED_LEADER_NOT_AVAILABLE,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.THROTTLING_QUOTA_EXCEEDED,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
    }
)

_RUNNING_DETAILS = re.compile(r" \(after \d+ms in state .*\)$|: \d+ identical error.*$")


def lasting_text(error: KafkaError) -> str:
    """What librdkafka says, without the details that differ each time."""
    return _RUNNING_DETAILS.sub("", error.str())


def is_transient_code(error: KafkaError) -> bool:
    """Whether what librdkafka reports passes by itself."""
    code = error.code()
    return not error.fatal() and (code in TRANSIENT or code in UNREADABLE or error.retriable())


def translated(error: KafkaError, doing: str) -> K2IError:
    """Our error for librdkafka's.

    Args:
        error: what librdkafka reports.
        doing: what was tried, to begin a sentence with: "Listing topics at host:9092".
    """
    what = f"{doing}: {lasting_text(error)} ({error.name()})."
    code = error.code()
    if code in OUT_OF_RANGE:
        return IntegrityError(what, component=Component.KAFKA)
    if code in LOGIN:
        remedy = "Check [kafka.security]: protocol, mechanism, user, password, certificates."
        return ServiceError(what, component=Component.KAFKA, remedy=remedy)
    if code in RIGHTS:
        remedy = "Give the user the rights Describe and Read on the topic, and Read on the group."
        return ServiceError(what, component=Component.KAFKA, remedy=remedy)
    if code in UNKNOWN_TOPIC:
        remedy = "Check kafka.topic, and that nobody deleted it."
        return ServiceError(what, component=Component.KAFKA, remedy=remedy)
    if is_transient_code(error):
        return TransientError(what, component=Component.KAFKA)
    return ServiceError(what, component=Component.KAFKA)


@contextmanager
def kafka_errors(doing: str) -> Iterator[None]:
    """Translates what confluent_kafka raises inside; `doing` begins the sentence."""
    try:
        yield
    except KafkaException as error:
        raise translated(error.args[0], doing) from error
    except FutureTimeoutError as error:
        raise TransientError(f"{doing}: no answer in time.", component=Component.KAFKA) from error


@contextmanager
def settings_errors() -> Iterator[None]:
    """Translates a client's refusal to be built: one of its settings is wrong.

    Raises:
        ConfigError: from any KafkaException inside.
    """
    try:
        yield
    except KafkaException as error:
        raise ConfigError(
            f"The Kafka client refuses its settings: {error.args[0].str()}.",
            field="kafka",
            remedy="Correct the named setting in [kafka], [kafka.security] or [kafka.properties].",
        ) from error


class ErrorLog:
    """The last complaints of librdkafka and how many there were of each kind. Thread-safe.

    Broker and login errors reach us by callback only. A callback must never raise: the records of
    the consume call around it would be lost.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._notes: deque[ErrorNote] = deque(maxlen=NOTES_MAX)
        self._counts: Counter[str] = Counter()
        self._refusal: KafkaError | None = None
        self._latest: KafkaError | None = None

    def add(self, error: KafkaError) -> None:
        """Takes one error of librdkafka's; this is its `error_cb`. Does not block or raise."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            # It comes with each connection error, and says less ("0/1 brokers are down").
            with self._lock:
                self._counts[error.name()] += 1
            return
        with self._lock:
            self._latest = error
            if error.code() in LOGIN:
                self._refusal = error
        self.note(error.name(), lasting_text(error))

    def note(self, code: str, message: str) -> None:
        """Counts under `code`, and keeps `message` once, with the time it was last heard."""
        fresh = ErrorNote(self._clock.unix(), Component.KAFKA.value, message)
        with self._lock:
            self._counts[code] += 1
            others = [note for note in self._notes if note.message != message]
            is_new = len(others) == len(self._notes)
            self._notes = deque([*others, fresh], maxlen=NOTES_MAX)
        if is_new:
            log.warning("%s", message)

    def recent(self) -> tuple[ErrorNote, ...]:
        """The last distinct complaints, oldest first."""
        with self._lock:
            return tuple(self._notes)

    @property
    def counts(self) -> Mapping[str, int]:
        """Complaints so far by librdkafka's name of the error."""
        with self._lock:
            return dict(self._counts)

    @property
    def refusal(self) -> KafkaError | None:
        """The last error of login or encryption, if any."""
        with self._lock:
            return self._refusal

    @property
    def latest(self) -> KafkaError | None:
        """The last error that says most about why nothing answers."""
        with self._lock:
            return self._latest

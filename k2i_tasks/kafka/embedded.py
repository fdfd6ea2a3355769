"""A broker inside this process, for demos and tests: librdkafka's mock cluster.

It speaks the real protocol on a loopback port, so any client can join. It keeps what it holds in
memory, about 5 MB or 100,000 records per partition, drops the oldest beyond that, and forgets
everything when it is closed.
"""

from __future__ import annotations

import ctypes
from types import TracebackType
from typing import Any, Self

import confluent_kafka.cimpl

from k2i_tasks.errors import Component, ServiceError

#: rd_kafka_type_t of a producer: the instance that the mock cluster hangs on.
_PRODUCER = 0
_REASON_BYTES = 512
PARTITIONS_MAX = 1_000


def _library() -> ctypes.CDLL:
    """The very librdkafka that confluent_kafka uses, with the few functions that we call."""
    # Symbols of a module's dependencies are found through the module itself.
    library = ctypes.CDLL(confluent_kafka.cimpl.__file__)
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "rd_kafka_conf_new": (pointer, []),
        "rd_kafka_conf_set": (number, [pointer, text, text, text, ctypes.c_size_t]),
        "rd_kafka_new": (pointer, [number, pointer, text, ctypes.c_size_t]),
        "rd_kafka_destroy": (None, [pointer]),
        "rd_kafka_err2str": (text, [number]),
        "rd_kafka_mock_cluster_new": (pointer, [pointer, number]),
        "rd_kafka_mock_cluster_destroy": (None, [pointer]),
        "rd_kafka_mock_cluster_bootstraps": (text, [pointer]),
        "rd_kafka_mock_topic_create": (number, [pointer, text, number, number]),
        "rd_kafka_mock_broker_set_down": (number, [pointer, ctypes.c_int32]),
        "rd_kafka_mock_broker_set_up": (number, [pointer, ctypes.c_int32]),
    }
    try:
        for name, (result, arguments) in signatures.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        raise ServiceError(
            "This build of librdkafka has no mock cluster, which the embedded broker is made of.",
            component=Component.KAFKA,
            remedy="Install confluent-kafka from its wheels, or use a real broker.",
        ) from error
    return library


class EmbeddedBroker:
    """One broker on a free loopback port, from construction to `close`. A context manager.

    Args:
        topics: name to number of partitions, created at once.

    Raises:
        ServiceError: the Kafka library cannot provide it.
    """

    def __init__(self, topics: dict[str, int] | None = None) -> None:
        self._library = library = _library()
        reason = ctypes.create_string_buffer(_REASON_BYTES)
        settings = library.rd_kafka_conf_new()
        library.rd_kafka_conf_set(settings, b"log_level", b"4", reason, _REASON_BYTES)
        self._client = library.rd_kafka_new(_PRODUCER, settings, reason, _REASON_BYTES)
        if not self._client:
            raise _failed(f"no client: {reason.value.decode(errors='replace')}")
        self._cluster = library.rd_kafka_mock_cluster_new(self._client, 1)
        if not self._cluster:
            library.rd_kafka_destroy(self._client)
            raise _failed("no loopback port could be opened")
        #: `host:port` for clients.
        self.bootstrap: str = library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        try:
            for topic, partitions in (topics or {}).items():
                self.create_topic(topic, partitions)
        except BaseException:
            self.close()
            raise

    def create_topic(self, topic: str, partitions: int = 4) -> None:
        """Creates `topic`. Does not block.

        Args:
            topic: its name.
            partitions: 1 to 1,000.

        Raises:
            ServiceError: it exists already.
        """
        if not 1 <= partitions <= PARTITIONS_MAX:
            raise ValueError(f"partitions must be 1 to {PARTITIONS_MAX}, not {partitions}")
        self._expect(
            self._library.rd_kafka_mock_topic_create(self._open(), topic.encode(), partitions, 1),
            f"topic {topic!r} was not created",
        )

    def set_down(self) -> None:
        """Closes all connections and refuses new ones until `set_up`. Idempotent."""
        self._expect(
            self._library.rd_kafka_mock_broker_set_down(self._open(), 1), "broker not set down"
        )

    def set_up(self) -> None:
        """Accepts connections again. Idempotent."""
        self._expect(
            self._library.rd_kafka_mock_broker_set_up(self._open(), 1), "broker not set up"
        )

    def close(self) -> None:
        """Ends the broker and forgets all records. Idempotent; may block for a moment."""
        if self._cluster:
            cluster, self._cluster = self._cluster, None
            self._library.rd_kafka_mock_cluster_destroy(cluster)
            self._library.rd_kafka_destroy(self._client)

    def _open(self) -> Any:
        if not self._cluster:
            raise _failed("it is closed")
        return self._cluster

    def _expect(self, code: int, what: str) -> None:
        if code != 0:
            raise _failed(f"{what}: {self._library.rd_kafka_err2str(code).decode()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _failed(what: str) -> ServiceError:
    return ServiceError(f"Embedded broker: {what}.", component=Component.KAFKA)

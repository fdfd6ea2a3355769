"""Arrow Flight: what a ticket asks (`tickets`), schemas and tables, over gRPC.

`pyarrow.flight` is imported by who builds a `FlightDoor`, not before: the start of a run does not
wait for it.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

# What gRPC says of strangers' handshakes would go straight to the terminal, through the live view.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from pyarrow import flight

from k2i_tasks.asking.answers import Answer
from k2i_tasks.asking.engine import Engine
from k2i_tasks.doors.sockets import addresses, cut_off
from k2i_tasks.doors.tokens import Tokens
from k2i_tasks.errors import (
    BusyError,
    Component,
    ConfigError,
    K2IError,
    QueryCancelledError,
    QueryLimitError,
    ServiceError,
    TransientError,
)
from k2i_tasks.tickets import AWAY, BUSY, Ask, Rows, parsed, ticket

log = logging.getLogger(__name__)

NAME = "k2i-token"
#: What calls under way have to end by themselves, and what their connections have.
GRACE_SECONDS, STOP_SECONDS = 0.3, 1.0
#: Doors that did not end.
_LEFT: list[FlightDoor] = []


class _Caller(flight.ServerMiddleware):  # type: ignore[misc]
    """Whoever has come with a good token, for as long as the call lasts."""

    def __init__(self, name: str, calls: threading.BoundedSemaphore) -> None:
        self.name = name
        self._calls = calls

    def call_completed(self, exception: Any) -> None:
        self._calls.release()


class _Gate(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    """Lets nobody in without a token, and so many calls at once: each has a thread of gRPC's."""

    def __init__(self, tokens: Tokens, calls_max: int) -> None:
        self._tokens = tokens
        self._calls_max = calls_max
        self.calls = threading.BoundedSemaphore(calls_max)

    def start_call(self, info: Any, headers: Any) -> _Caller:
        given = [
            value
            for name, values in headers.items()
            if name.lower() == "authorization"
            for value in values
        ]
        header = given[0] if len(given) == 1 and isinstance(given[0], str) else None
        name = self._tokens.bearer(header)
        if name is None:
            raise flight.FlightUnauthenticatedError(
                "A bearer token is needed, and this is none that is known here."
            )
        if not self.calls.acquire(blocking=False):
            raise _refused(
                BusyError(
                    f"{self._calls_max} calls over Flight are under way already.",
                    remedy="Ask again in a while; read answers to their end, or cancel them.",
                )
            )
        return _Caller(name, self.calls)


class FlightDoor(flight.FlightServerBase):  # type: ignore[misc]
    """Serves an engine over Flight, on threads of gRPC, from its construction on.

    Args:
        engine: answers.
        host, port: where to listen; port 0 for any free one.
        tokens: who may ask.
        tls: certificate chain and key, PEM; None for no TLS.

    Raises:
        ServiceError: the address cannot be bound, or the certificate is not usable.
    """

    def __init__(
        self,
        engine: Engine,
        host: str,
        port: int,
        tokens: Tokens,
        tls: tuple[bytes, bytes] | None = None,
    ) -> None:
        self._engine = engine
        scheme = "grpc" if tls is None else "grpc+tls"
        shown = f"[{host}]" if ":" in host else host
        options: dict[str, Any] = {} if tls is None else {"tls_certificates": [tls]}
        self._gate = _Gate(tokens, engine.limits.calls_max)
        try:
            self._addresses = addresses(host)
            super().__init__(
                f"{scheme}://{shown}:{port}",
                middleware={NAME: self._gate},
                **options,
            )
        except (pa.ArrowException, OSError) as error:
            raise ServiceError(
                f"Arrow Flight cannot be served on {host}:{port}: the port is in use, or address, "
                "certificate or key are not usable.",
                component=Component.HEALTH,
                remedy="Check query.host, query.flight_port and the files of query.tls_*.",
            ) from error
        self.url = f"{scheme}://{shown}:{self.port}"

    def stop(self) -> None:
        """Stops answering; the engine ends calls under way. Blocks for `STOP_SECONDS` at most.

        A client that does not read keeps its call, and Flight's end would wait for it: after
        `GRACE_SECONDS` its connection is shut down.
        """
        thread = threading.Thread(target=self.shutdown, name="k2i-flight-stop", daemon=True)
        thread.start()
        thread.join(GRACE_SECONDS)
        deadline = time.monotonic() + STOP_SECONDS
        while thread.is_alive() and time.monotonic() < deadline:
            cut_off(self._addresses, self.port)
            thread.join(0.05)
        if thread.is_alive():
            # Its destructor would wait as well.
            _LEFT.append(self)

    def do_get(self, context: Any, asked: Any) -> Any:
        with _translated():
            return self._stream(context, parsed(asked.ticket))

    def get_flight_info(self, context: Any, descriptor: Any) -> Any:
        with _translated():
            ask = _asked(descriptor)
            return _told_of(self._engine.schema(ask, _waits(context)), ask, descriptor)

    def get_schema(self, context: Any, descriptor: Any) -> Any:
        with _translated():
            return flight.SchemaResult(self._engine.schema(_asked(descriptor), _waits(context)))

    def list_flights(self, context: Any, criteria: bytes) -> Iterator[Any]:
        with _translated():
            schemas = self._engine.schemas(_waits(context))
        # Without columns while they cannot be told: others are there too.
        shown = {name: found or pa.schema([]) for name, found in schemas.items()}
        at = flight.FlightDescriptor.for_path
        return iter([_told_of(found, Rows(name), at(name)) for name, found in shown.items()])

    def do_action(self, context: Any, action: Any) -> Iterator[Any]:
        raise _refused(ConfigError("There are no actions here."))

    def list_actions(self, context: Any) -> list[Any]:
        return []

    def _stream(self, context: Any, ask: Ask) -> Any:
        caller = context.get_middleware(NAME)
        log.debug("%s asks over Flight: %s", caller.name, type(ask).__name__)
        answer = self._engine.answer(ask, _waits(context))
        sent = _sent(answer)
        # Begun here: a generator that was never begun does not close what it holds.
        first = next(sent)
        return flight.GeneratorStream(answer.schema, chain([first], sent))


def _told_of(schema: pa.Schema, ask: Ask, descriptor: Any) -> Any:
    # Without a location: the answer is to be fetched where the question was asked.
    endpoint = flight.FlightEndpoint(ticket(ask), [])
    return flight.FlightInfo(schema, descriptor, [endpoint], -1, -1)


def _sent(answer: Answer) -> Iterator[Any]:
    """The rows; the last batch, which may have none, tells how many there were, and if it is all.

    Each message costs about a tenth of a look-up: where no row is waited for, it has rows.
    """
    with _translated(), answer:
        batches: list[pa.RecordBatch] = []
        if answer.at_once:
            batches = list(answer)
            yield from batches[:-1]
        else:
            yield from answer
        told = {"rows": answer.end.rows, "cut": answer.end.cut}
        last = batches[-1] if batches else pa.RecordBatch.from_pylist([], schema=answer.schema)
        yield last, json.dumps(told).encode()


def _waits(context: Any) -> Any:
    return lambda: not context.is_cancelled()


def _asked(descriptor: Any) -> Ask:
    """A descriptor is a ticket (command), or the name of a table (path)."""
    if descriptor.descriptor_type == flight.DescriptorType.CMD:
        return parsed(descriptor.command)
    names = [part.decode("utf-8", "replace") for part in descriptor.path]
    return Rows(".".join(names))


@contextmanager
def _translated() -> Iterator[None]:
    """Turns our errors into Flight's, with message and remedy; says nothing of others."""
    try:
        yield
    except K2IError as error:
        raise _refused(error) from None
    except pa.ArrowException:
        raise
    except Exception:
        log.exception("a question over Flight failed")
        raise flight.FlightInternalError("Internal error; the run's log has more.") from None


def _refused(error: K2IError) -> Exception:
    """INVALID_ARGUMENT, which Flight's own errors cannot say, is Arrow's."""
    text = str(error)
    details = {"what": error.what, "remedy": error.remedy}
    if isinstance(error, TransientError):
        details["kind"] = BUSY if isinstance(error, BusyError) else AWAY
    told = json.dumps(details).encode()
    if isinstance(error, ConfigError):
        invalid: Exception = pa.ArrowInvalid(text)
        return invalid
    if isinstance(error, QueryLimitError):
        return _flight(flight.FlightTimedOutError, text, told)
    if isinstance(error, QueryCancelledError):
        return _flight(flight.FlightCancelledError, text, told)
    if isinstance(error, TransientError):
        return _flight(flight.FlightUnavailableError, text, told)
    return _flight(flight.FlightServerError, text, told)


def _flight(kind: Any, text: str, told: bytes) -> Exception:
    error: Exception = kind(text, told)
    return error


def pem_pair(cert: Path, key: Path) -> tuple[bytes, bytes]:
    """Certificate chain and private key, read from their files. May block on the disk.

    Raises:
        ConfigError: one cannot be read.
    """
    found = []
    for path, field in ((cert, "query.tls_cert_location"), (key, "query.tls_key_location")):
        try:
            found.append(path.read_bytes())
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be read: {error.strerror}.", field=field, remedy="Name a PEM file."
            ) from None
    return found[0], found[1]

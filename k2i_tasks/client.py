"""Asks a running flow from Python.

    from k2i_tasks import client

    with client.connect("k2i-data") as flow:            # or "grpc+tls://host:port", token=...
        frame = flow.sql("SELECT city, count(*) AS n FROM demo.orders GROUP BY city")
        rows = flow.lookup(17)
        for new in flow.tail():
            print(new.num_rows)

Polars and Arrow are imported when they are needed.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k2i_tasks.discovery import Found, running
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
from k2i_tasks.tickets import AWAY, BUSY, After, Ask, At, Key, Sql, positions_of, ticket
from k2i_tasks.views import Part

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from k2i_tasks.types import Offsets

#: What gRPC adds to a message of the flow.
_ADDED = re.compile(r"\.? ?(gRPC client debug context:|Detail: |Client context:).*", re.DOTALL)
FOLLOW_WAIT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Rows:
    """An answer: its rows, whether some were left out by a limit, and what it took."""

    table: pa.Table
    was_cut: bool
    seconds: float


def connect(
    where: str | Path,
    token: str | None = None,
    *,
    ca: str | Path | None = None,
    verify: bool = True,
) -> Client:
    """A connection to a running flow. Reaches it with the first question.

    Args:
        where: `grpc://host:port`, `grpc+tls://host:port` or `host:port`; or the folder of a run on
            this machine (`run.data_dir`, or `transaction_log.log_dir`), which has a token too.
        token: one of `query.tokens`.
        ca: PEM file with the certificates that are trusted; the system's when None.
        verify: whether the server's certificate is checked.

    Raises:
        ServiceError: no flow runs with that folder.
        ConfigError: there is no token, or `ca` cannot be read.
    """
    text = str(where)
    if "://" not in text and (isinstance(where, Path) or Path(text).is_dir()):
        found = running(Path(where))
        if found is None:
            raise ServiceError(
                f"No flow runs with the folder {where}.",
                component=Component.HEALTH,
                remedy="Start it, or name the folder of its run.data_dir or its "
                "transaction_log.log_dir.",
            )
        return local(found)
    if token is None:
        raise ConfigError(
            f"A token is needed for {where}.",
            field="token",
            remedy="Give one of its query.tokens.",
        )
    return Client(text if "://" in text else f"grpc://{text}", token, _trusted(ca), verify=verify)


def local(found: Found) -> Client:
    """A connection to a flow of this machine, by what its file says."""
    # Whoever answers on this port is the process that wrote the file, which is alive.
    address = found.flight.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    return Client(address, found.token, None, verify=False)


def _trusted(ca: str | Path | None) -> bytes | None:
    if ca is None:
        return None
    try:
        return Path(ca).read_bytes()
    except OSError as error:
        raise ConfigError(f"{ca} cannot be read: {error.strerror}.", field="ca") from None


class Client:
    """A running flow, as it is asked. Threads may share it; close it, or use it in `with`.

    Args:
        address: `grpc://` or `grpc+tls://`.
        token: bearer token.
        trusted: certificates in PEM; the system's when None.
        verify: whether the server's certificate is checked.
    """

    def __init__(
        self, address: str, token: str, trusted: bytes | None = None, *, verify: bool = True
    ) -> None:
        from pyarrow import flight

        self.address = address
        self._flight: Any = flight
        options: dict[str, Any] = {}
        if address.startswith("grpc+tls://"):
            options["disable_server_verification"] = not verify
            if trusted is not None and verify:
                options["tls_root_certs"] = trusted
        with _translated(flight, address):
            self._client = flight.FlightClient(address, **options)
        headers = [(b"authorization", b"Bearer " + token.encode())]
        self._options: Any = flight.FlightCallOptions(headers=headers)

    # Questions.

    def sql(self, sql: str, *, part: Part = "all", limit: int | None = None) -> pl.DataFrame:
        """The rows of a query, as a Polars frame. Blocks.

        Args:
            sql: one SELECT.
            part: `hot` for rows in memory alone, `cold` for committed ones.
            limit: rows at most, that may be fewer than there are.

        Raises:
            ConfigError: the query is wrong.
            QueryLimitError: it took too much; or, without `limit`, there are more rows than the
                flow gives.
            K2IError: it cannot be answered.
        """
        import polars as pl

        frame = pl.from_arrow(self.arrow(sql, part=part, limit=limit))
        assert isinstance(frame, pl.DataFrame)
        return frame

    def arrow(self, sql: str, *, part: Part = "all", limit: int | None = None) -> pa.Table:
        """As `sql`, as an Arrow table."""
        return self._uncut(Sql(sql, part, limit), limit)

    def lookup(self, key: Any, table: str = "") -> pa.Table:
        """Rows in memory with this key, oldest first. Blocks.

        Args:
            key: value of the key column.
            table: needed where the flow has several.

        Raises:
            QueryLimitError: there are more rows than the flow gives.
            K2IError: it cannot be answered.
        """
        return self._uncut(Key(table, key))

    def at(self, topic: str, partition: int, offset: int, table: str = "") -> pa.Table:
        """The row of this record if it is in memory, else no rows. Blocks."""
        return self._uncut(At(table, topic, partition, offset))

    def tail(
        self,
        table: str = "",
        *,
        positions: Offsets | None = None,
        on_missed: Callable[[], None] | None = None,
    ) -> Iterator[pa.Table]:
        """New rows, as they come, without an end. Blocks for each.

        Args:
            table: needed where the flow has several.
            positions: where to begin; from now on when None.
            on_missed: called when rows had left memory before they were read, since the reader is
                too slow; an error when None.

        Raises:
            QueryLimitError: rows were missed.
            K2IError: the flow is gone, or cannot answer.
        """
        while True:
            asked = After(table, positions, wait_seconds=FOLLOW_WAIT_SECONDS)
            rows = self.answer(asked).table
            told = rows.schema.metadata or {}
            positions = positions_of(json.loads(told[b"k2i.positions"]))
            if told.get(b"k2i.missed") == b"1":
                if on_missed is None:
                    raise QueryLimitError(
                        "Rows had left memory before they were read.",
                        remedy="Read faster, keep rows longer (buffer.ttl_seconds), or ask the "
                        "committed table.",
                    )
                on_missed()
            if rows.num_rows:
                yield rows.replace_schema_metadata(None)

    def tables(self) -> dict[str, pa.Schema]:
        """Columns of each table by its full name; none of one where they are not known. Blocks."""
        with _translated(self._flight, self.address):
            found = list(self._client.list_flights(options=self._options))
            return {one.descriptor.path[0].decode(): one.schema for one in found}

    def answer(self, ask: Ask) -> Rows:
        """The whole answer to any question. Blocks."""
        import pyarrow as pa

        began = time.monotonic()
        cut = ""
        with _translated(self._flight, self.address):
            reader = self._client.do_get(self._flight.Ticket(ticket(ask)), self._options)
            batches = []
            for chunk in reader:
                if chunk.app_metadata is not None:
                    cut = json.loads(bytes(chunk.app_metadata))["cut"]
                if chunk.data is not None and chunk.data.num_rows:
                    batches.append(chunk.data)
            table = pa.Table.from_batches(batches, reader.schema)
        return Rows(table, bool(cut), time.monotonic() - began)

    def _uncut(self, ask: Ask, limit: int | None = None) -> pa.Table:
        """The rows; an error where the flow has left some out before `limit`."""
        rows = self.answer(ask)
        if rows.was_cut and (limit is None or rows.table.num_rows < limit):
            raise QueryLimitError(
                f"The result has more than the {rows.table.num_rows:,} rows that the flow gives.",
                remedy="Ask for less, give a limit, or raise query.max_rows or max_result_mb.",
            )
        return rows.table

    def close(self) -> None:
        """Ends the connection. Idempotent."""
        self._client.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


@contextmanager
def _translated(flight: Any, address: str) -> Iterator[None]:
    """What Flight raises, as ours."""
    import pyarrow as pa

    try:
        yield
    except flight.FlightUnauthenticatedError as error:
        raise ServiceError(
            f"{address} refuses the token.",
            component=Component.HEALTH,
            remedy="Give one of its query.tokens.",
        ) from error
    except flight.FlightTimedOutError as error:
        raise QueryLimitError(*_told(error)[:1], remedy=_told(error)[1]) from error
    except flight.FlightCancelledError as error:
        raise QueryCancelledError(_told(error)[0]) from error
    except flight.FlightUnavailableError as error:
        what, remedy = _told(error)
        kinds = {BUSY: BusyError, AWAY: TransientError}
        if (kind := _kind(error)) not in kinds:
            raise ServiceError(
                f"Nothing answers at {address}, or not in the way that was asked for (TLS, "
                "certificate).",
                component=Component.HEALTH,
            ) from error
        raise kinds[kind](what, remedy=remedy) from error
    except pa.ArrowInvalid as error:
        raise ConfigError(_plain(str(error)), field="sql") from error
    except (flight.FlightError, pa.ArrowException, OSError) as error:
        what, remedy = _told(error)
        raise K2IError(what, remedy=remedy) from error


def _told(error: Any) -> tuple[str, str]:
    """Sentence and remedy, as the flow gave them."""
    details = _details(error)
    if "what" not in details:
        return _plain(str(error)), ""
    return str(details["what"]), str(details.get("remedy", ""))


def _kind(error: Any) -> str:
    """What kind of UNAVAILABLE it is; empty where no flow has said so."""
    return str(_details(error).get("kind", ""))


def _details(error: Any) -> dict[str, Any]:
    try:
        found = json.loads(bytes(error.extra_info))
    except (AttributeError, TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _plain(text: str) -> str:
    return _ADDED.sub("", text.removeprefix("Flight error: ")).strip()

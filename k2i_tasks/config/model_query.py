"""Settings of what answers clients: queries, look-ups and tails over Flight and HTTP."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from k2i_tasks.config.fields import (
    FilePath,
    Flag,
    Integer,
    Number,
    Secret,
    Section,
    is_loopback,
    setting,
)

_MIB = 1_048_576
#: Whoever asks, as logs name it.
ClientName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
QueryHost = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.:_-]{1,253}$")]


class Query(Section):
    """Who may ask a running flow what, and what a query may use."""

    enabled: Flag = setting("Answer queries while the run goes on.", True)
    host: QueryHost = setting("Address of both ports.", "127.0.0.1")
    flight_port: Integer = setting("Port of Arrow Flight; 0 for any free one.", 0, ge=0, le=65_535)
    http_port: Integer = setting("Port of POST /query; 0 for any free one.", 0, ge=0, le=65_535)
    tokens: dict[ClientName, Secret] = setting(
        "Bearer tokens by the name of whoever has them. Commands on this machine need none: they "
        "find one of their own in the run's folder, which its user alone can read.",
        {},
        max_length=256,
    )
    tls_cert_location: FilePath | None = setting(
        "Certificate and its chain, PEM; needed for an address that other machines reach.", None
    )
    tls_key_location: FilePath | None = setting("Its private key, PEM.", None)
    insecure_network: Flag = setting(
        "Answer other machines without TLS, so that tokens and rows cross the network in the "
        "clear.",
        False,
    )
    max_rows: Integer = setting(
        "Rows of a result at most; what is more is cut, and said so.",
        10_000_000,
        ge=1,
        le=1_000_000_000_000,
    )
    max_result_mb: Integer = setting(
        "Size of a result at most, in Arrow; what is more is cut, and said so.",
        4_096,
        ge=1,
        le=1_048_576,
    )
    max_seconds: Number = setting("Time of a query at most.", 30.0, ge=0.05, le=86_400)
    max_memory_mb: Integer = setting(
        "Memory of the process that evaluates a query, on top of its own 100 MB or so.",
        1_024,
        ge=64,
        le=1_048_576,
    )
    max_queries: Integer = setting("Queries at the same time.", 2, ge=1, le=256)
    max_waiting: Integer = setting(
        "Queries that may wait for one of them to end; further ones are refused at once.",
        16,
        ge=0,
        le=10_000,
    )
    max_wait_seconds: Number = setting(
        "Time that they may wait before they are refused.", 5.0, ge=0, le=3_600
    )
    max_followers: Integer = setting(
        "Clients that may wait for new rows at the same time.", 64, ge=1, le=10_000
    )
    nice: Integer = setting(
        "Priority of queries below that of ingestion, as `nice` counts: 0 for the same, 19 for "
        "the least.",
        15,
        ge=0,
        le=19,
    )

    @property
    def may_listen(self) -> bool:
        """Whether nobody can read along: this machine alone, TLS, or an operator who accepts it."""
        encrypted = self.tls_cert_location is not None
        return is_loopback(self.host) or encrypted or self.insecure_network

    @property
    def result_bytes_max(self) -> int:
        """`max_result_mb` in bytes."""
        return self.max_result_mb * _MIB

    @property
    def memory_bytes_max(self) -> int:
        """`max_memory_mb` in bytes."""
        return self.max_memory_mb * _MIB

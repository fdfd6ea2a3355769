"""The registry's HTTP interface, as far as a reader needs it. Blocks; for one thread.

Plain httpx, not the client that comes with confluent-kafka: that one needs four more packages, and
hides whether a registry is away, refuses, or does not know an id, by which we go different ways.

Source: the Schema Registry API reference of Confluent Platform (schemas, subjects, error codes).
"""

from __future__ import annotations

import json
import random
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, unquote, urlsplit

import httpx

from k2i_tasks.errors import Component, ConfigError, ServiceError, TransientError
from k2i_tasks.registry.model import Reference, Registered

#: Bytes of one answer, unpacked.
ANSWER_BYTES_MAX = 4 << 20
#: "Subject not found", "Version not found", "Schema not found".
_NOT_FOUND = (40401, 40402, 40403)
_BUSY = (408, 425, 429)
_FIRST_WAIT_SECONDS = 0.1
_SECTION = "kafka.format.schema_registry"


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """How a registry is reached.

    Args:
        url: its address; what the API adds to it comes behind.
        user, password: for basic authentication.
        token: for a bearer token.
        ca_file: certificates to trust in place of the usual ones.
        certificate_file, key_file: of this client.
        timeout_seconds: longest that one try may take.
        tries: tries before a registry counts as away.
    """

    url: str
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    timeout_seconds: float = 10.0
    tries: int = 3

    @property
    def shown(self) -> str:
        """The address without log-in and query."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


class RegistryClient:
    """Asks one registry. A context manager.

    Raises:
        ConfigError: a certificate or key cannot be read.
    """

    def __init__(self, settings: RegistrySettings) -> None:
        self._settings = settings
        self._where = f"The schema registry at {settings.shown}"
        headers = {"Accept": "application/vnd.schemaregistry.v1+json, application/json"}
        auth = None
        # Not left to httpx, which would log the address with what is in it.
        address = urlsplit(settings.url)
        if settings.token is not None:
            headers["Authorization"] = f"Bearer {settings.token}"
        elif settings.user is not None:
            auth = httpx.BasicAuth(settings.user, settings.password or "")
        elif address.username is not None:
            password = unquote(address.password or "")
            auth = httpx.BasicAuth(unquote(address.username), password)
        self._logs_in = auth is not None or settings.token is not None
        self._http = httpx.Client(
            headers=headers,
            auth=auth,
            verify=_tls(settings),
            timeout=settings.timeout_seconds,
            # Elsewhere may be anywhere, and would be given the log-in.
            follow_redirects=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def schema(self, schema_id: int) -> Registered | None:
        """The schema of an id; None when the registry knows none. May block; idempotent.

        Raises:
            TransientError: the registry is away, busy, or its answer was garbled.
            ServiceError: it refuses us, or what answers is no registry.
        """
        found = self._get(f"/schemas/ids/{schema_id}", {})
        if found is not None and found.id not in (None, schema_id):
            raise ServiceError(
                f"{self._where} was asked for schema {schema_id} and answered with {found.id}.",
                component=Component.REGISTRY,
                remedy="Check what stands between it and us.",
            )
        return found

    def version(self, subject: str, version: int | None) -> Registered | None:
        """A version of a subject, the latest for None; None when there is none. As `schema`.

        Deleted versions are found too: others refer to them.
        """
        which = "latest" if version is None else str(version)
        parameters = {} if version is None else {"deleted": "true"}
        return self._get(f"/subjects/{quote(subject, safe='')}/versions/{which}", parameters)

    def subjects(self) -> None:
        """Asks for the subjects, to see whether there is a registry that lets us in. As `schema`.

        The names are not looked at.
        """
        self._retried("/subjects", {"subjectPrefix": "k2i-", "limit": "1"}, lambda body: None)

    def _get(self, path: str, parameters: Mapping[str, str]) -> Registered | None:
        found: Registered | None = self._retried(path, parameters, self._registered)
        return found

    def _retried(self, path: str, parameters: Mapping[str, str], read: Any) -> Any:
        tries = self._settings.tries
        for attempt in range(1, tries + 1):
            try:
                body = self._once(path, parameters)
                return None if body is None else read(body)
            except TransientError:
                if attempt == tries:
                    raise
            time.sleep(_FIRST_WAIT_SECONDS * 2**attempt * random.uniform(0.5, 1.0))
        raise AssertionError("unreachable")

    def _once(self, path: str, parameters: Mapping[str, str]) -> Any:
        """The JSON that one try came to; None when there is no such thing."""
        url = self._settings.shown + path
        deadline = time.monotonic() + self._settings.timeout_seconds
        try:
            with self._http.stream("GET", url, params=parameters) as response:
                text = self._body(response, deadline)
        except httpx.TransportError as error:
            raise self._away(error) from None
        except httpx.InvalidURL as error:
            what = f"kafka.format.schema_registry_url is no address: {error}."
            raise ConfigError(what, field="kafka.format.schema_registry_url") from None
        return self._answer(response.status_code, text)

    def _body(self, response: httpx.Response, deadline: float) -> bytes:
        parts: list[bytes] = []
        size = 0
        for part in response.iter_bytes():
            parts.append(part)
            size += len(part)
            if size > ANSWER_BYTES_MAX:
                raise ServiceError(
                    f"{self._where} answered with more than {ANSWER_BYTES_MAX} bytes.",
                    component=Component.REGISTRY,
                    remedy="A schema may not be that large.",
                )
            if time.monotonic() > deadline:
                raise self._transient(f"took more than {self._settings.timeout_seconds:g} s")
        return b"".join(parts)

    def _answer(self, status: int, text: bytes) -> Any:
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            body = None
        if status == 200:
            if body is None:
                raise self._transient("answered with what is no JSON")
            return body
        code = body.get("error_code") if isinstance(body, dict) else None
        if status == 404 and code in _NOT_FOUND:
            return None
        if status >= 500 or status in _BUSY:
            raise self._transient(f"answered with HTTP status {status}")
        if status in (401, 403):
            remedy = f"Check user name, password, token and rights ({_SECTION})."
            if not self._logs_in:
                remedy = f"Give a user name and password, or a token ({_SECTION})."
            what = f"{self._where} refuses us with HTTP status {status}."
            raise ServiceError(what, component=Component.REGISTRY, remedy=remedy)
        raise ServiceError(
            f"{self._where} answered with HTTP status {status}, as no schema registry does.",
            component=Component.REGISTRY,
            remedy="Check kafka.format.schema_registry_url, path included.",
        )

    def _registered(self, body: Any) -> Registered:
        try:
            return _read(body)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise self._transient("answered with JSON that is no schema") from None

    def _away(self, error: httpx.TransportError) -> TransientError | ServiceError:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return ServiceError(
                    f"{self._where} shows a certificate that is not trusted: "
                    f"{cause.verify_message}.",
                    component=Component.REGISTRY,
                    remedy=f"Name the file of its CA in {_SECTION}.ssl_ca_location.",
                )
            cause = cause.__cause__ or cause.__context__
        return self._transient(f"does not answer: {error or type(error).__name__}")

    def _transient(self, what: str) -> TransientError:
        return TransientError(f"{self._where} {what}.", component=Component.REGISTRY)


def _read(body: Any) -> Registered:
    """Raises AttributeError, KeyError, TypeError or ValueError when it is no schema."""
    references = tuple(
        Reference(_text(one["name"]), _text(one["subject"]), int(one["version"]))
        for one in body.get("references") or ()
    )
    found = body.get("id")
    if found is not None and (isinstance(found, bool) or not isinstance(found, int)):
        raise TypeError("id")
    kind = _text(body.get("schemaType") or "AVRO")
    return Registered(kind.upper(), _text(body["schema"]), references, found)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _tls(settings: RegistrySettings) -> ssl.SSLContext | bool:
    if urlsplit(settings.url).scheme.lower() == "http":
        return False  # nothing to verify, and to load the usual certificates takes its time
    if settings.ca_file is None and settings.certificate_file is None:
        return True
    field_name = "ssl_ca_location"
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
        if settings.certificate_file is not None:
            field_name = "ssl_cert_location"
            context.load_cert_chain(settings.certificate_file, settings.key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"{_SECTION}.{field_name} cannot be used: {error.strerror or type(error).__name__}.",
            field=f"{_SECTION}.{field_name}",
            remedy="Name readable PEM files; certificate and key must belong together.",
        ) from None
    return context

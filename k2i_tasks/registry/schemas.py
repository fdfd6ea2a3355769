"""Schemas by id, from memory, disk, or the registry; with all that they refer to.

An id stands for one schema for good, so what was once found is kept. That a registry does not know
an id is not kept here: it may come to know it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from k2i_tasks.errors import DecodeError
from k2i_tasks.registry.client import RegistryClient, RegistrySettings
from k2i_tasks.registry.disk import DiskCache
from k2i_tasks.registry.model import Reference, Registered, WriterSchema

log = logging.getLogger(__name__)

#: Schemas in memory.
KEPT_MAX = 1_000
#: References of one schema, in a chain and in all, and their bytes.
REFERENCE_DEPTH_MAX = 32
REFERENCES_MAX = 256
REFERENCE_BYTES_MAX = 16 << 20


class Schemas:
    """What one registry knows. Blocks; thread-safe.

    Args:
        settings: how it is reached.
        disk: where schemas are kept beyond this process; None for nowhere.
        latest_seconds: how long the latest version of a subject is believed to be so.
        monotonic: seconds that only rise.
    """

    def __init__(
        self,
        settings: RegistrySettings,
        disk: DiskCache | None,
        *,
        latest_seconds: float = 300.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._disk = disk
        self._latest_seconds = latest_seconds
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, WriterSchema] = OrderedDict()
        self._latest: dict[str, tuple[float, WriterSchema]] = {}

    @property
    def where(self) -> str:
        """The registry's address, for people."""
        return self._settings.shown

    def schema(self, schema_id: int) -> WriterSchema:
        """The schema of an id. May block on disk and network; idempotent.

        Raises:
            DecodeError: the registry does not know it, or something that it refers to
                (`registry.unknown_id`, `registry.unknown_reference`), or its references are out of
                bounds (`registry.references`).
            TransientError: the registry is away.
            ServiceError: it refuses us.
        """
        found = self._remembered(schema_id)
        if found is None and self._disk is not None:
            found = self._disk.read(schema_id)
        if found is None:
            with RegistryClient(self._settings) as client:
                registered = client.schema(schema_id)
                if registered is None:
                    what = f"The schema registry at {self.where} knows no schema {schema_id}."
                    raise DecodeError("registry.unknown_id", what)
                found = self._resolved(client, schema_id, registered)
        self._remember(found)
        return found

    def latest(self, subject: str) -> WriterSchema | None:
        """The latest schema of a subject; None when there is none. As `schema`."""
        with self._lock:
            known = self._latest.get(subject)
        if known is not None and self._monotonic() - known[0] < self._latest_seconds:
            return known[1]
        with RegistryClient(self._settings) as client:
            registered = client.version(subject, None)
            if registered is None or registered.id is None:
                return None
            found = self._remembered(registered.id)
            found = found or self._resolved(client, registered.id, registered)
        self._remember(found)
        with self._lock:
            self._latest[subject] = (self._monotonic(), found)
        return found

    def check(self) -> None:
        """Whether there is a registry that lets us in. May block.

        Raises:
            K2IError: there is none, or it does not.
        """
        with RegistryClient(self._settings) as client:
            client.subjects()

    def _remembered(self, schema_id: int) -> WriterSchema | None:
        with self._lock:
            found = self._kept.get(schema_id)
            if found is not None:
                self._kept.move_to_end(schema_id)
            return found

    def _remember(self, schema: WriterSchema) -> None:
        with self._lock:
            self._kept[schema.id] = schema
            self._kept.move_to_end(schema.id)
            while len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)

    def _resolved(
        self, client: RegistryClient, schema_id: int, registered: Registered
    ) -> WriterSchema:
        references = _References(client, schema_id)
        references.add_all(registered.references, ())
        schema = WriterSchema(schema_id, registered.kind, registered.text, references.texts)
        log.info("schema %d is %s, with %d others", schema_id, schema.kind, len(references.texts))
        if self._disk is not None:
            self._disk.write(schema)
        return schema


class _References:
    """All that one schema refers to, what is referred to first."""

    def __init__(self, client: RegistryClient, schema_id: int) -> None:
        self._client = client
        self._id = schema_id
        self._bytes = 0
        self._fetched: dict[tuple[str, int], Registered] = {}
        #: Those that are done with all below them.
        self._whole: set[tuple[str, int]] = set()
        self.texts: dict[str, str] = {}

    def add_all(
        self, references: tuple[Reference, ...], chain: tuple[tuple[str, int], ...]
    ) -> None:
        """Adds `references` and those below; `chain` are those above them."""
        if len(chain) >= REFERENCE_DEPTH_MAX and references:
            raise self._refused(f"in a chain of more than {REFERENCE_DEPTH_MAX}")
        for reference in references:
            place = (reference.subject, reference.version)
            if place in chain:
                raise self._refused(f"in a circle: {reference.name!r} leads back to itself")
            registered = self._fetch(place, reference.name)
            if place not in self._whole:
                self.add_all(registered.references, (*chain, place))
                self._whole.add(place)
            if self.texts.setdefault(reference.name, registered.text) != registered.text:
                raise self._refused(f"to two different ones by the name {reference.name!r}")

    def _fetch(self, place: tuple[str, int], name: str) -> Registered:
        if place in self._fetched:
            return self._fetched[place]
        if len(self._fetched) >= REFERENCES_MAX:
            raise self._refused(f"to more than {REFERENCES_MAX}")
        registered = self._client.version(*place)
        if registered is None:
            what = f"Schema {self._id} refers to {name!r}, version {place[1]} of {place[0]!r}, "
            raise DecodeError("registry.unknown_reference", f"{what}which the registry has not.")
        self._bytes += len(registered.text)
        if self._bytes > REFERENCE_BYTES_MAX:
            raise self._refused(f"to more than {REFERENCE_BYTES_MAX} bytes of them")
        self._fetched[place] = registered
        return registered

    def _refused(self, how: str) -> DecodeError:
        what = f"Schema {self._id} refers to others {how}."
        return DecodeError("registry.references", what)

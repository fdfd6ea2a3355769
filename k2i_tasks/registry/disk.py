"""Schemas on disk, so that a run can start and go on while the registry is away.

One file for each id below one folder for each registry: an id means another schema elsewhere. What
is read is compared with its checksum; what does not fit is fetched anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from k2i_tasks.durable import checksum, replace
from k2i_tasks.registry.model import WriterSchema

log = logging.getLogger(__name__)

_FORMAT = 1


class DiskCache:
    """Keeps schemas; never fails. Thread-safe, also among processes.

    Args:
        folder: made when something is kept.
        registry: address of the registry, without log-in.
    """

    def __init__(self, folder: Path, registry: str) -> None:
        self._folder = folder / hashlib.sha256(registry.encode()).hexdigest()[:16]

    def path(self, schema_id: int) -> Path:
        """The file of an id."""
        return self._folder / f"{schema_id}.json"

    def read(self, schema_id: int) -> WriterSchema | None:
        """The schema that was kept; None when there is none, or it is damaged. May block."""
        path = self.path(schema_id)
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("the kept schema %s cannot be read: %s", path, error)
            return None
        schema = _parsed(text)
        if schema is None or schema.id != schema_id:
            log.warning("the kept schema %s is damaged: it is fetched anew", path)
            return None
        return schema

    def write(self, schema: WriterSchema) -> None:
        """Keeps `schema`, synced, as a whole or not at all. May block; idempotent."""
        path = self.path(schema.id)
        try:
            replace(path, _text(schema))
        except OSError as error:
            log.warning("schema %d cannot be kept at %s: %s", schema.id, path, error)


def _body(schema: WriterSchema) -> dict[str, Any]:
    return {
        "id": schema.id,
        "kind": schema.kind,
        "text": schema.text,
        # A list: the order has a meaning.
        "references": [[name, text] for name, text in schema.references.items()],
    }


def _text(schema: WriterSchema) -> bytes:
    body = _body(schema)
    whole = {"format": _FORMAT, "sha256": checksum(body), "schema": body}
    return json.dumps(whole).encode()


def _parsed(text: bytes) -> WriterSchema | None:
    try:
        whole = json.loads(text)
        body = whole["schema"]
        if whole["format"] != _FORMAT or whole["sha256"] != checksum(body):
            return None
        references = dict(body["references"])
        return WriterSchema(body["id"], body["kind"], body["text"], references)
    except (KeyError, TypeError, ValueError, RecursionError):
        return None

"""The object store: where the warehouse is, how PyIceberg reaches it, and whether it works."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from pyiceberg.io import FileIO

from k2i_tasks.config.model_iceberg import Iceberg
from k2i_tasks.errors import Component, ServiceError
from k2i_tasks.iceberg.errors import translated
from k2i_tasks.iceberg.files import DURABLE_FILE_IO, remove

_SCHEMES = {"s3": "s3", "gcs": "gs", "azure": "abfs"}
_PROBE = b"k2i looks whether it may write here"


def warehouse_location(iceberg: Iceberg) -> str:
    """The warehouse as PyIceberg takes it: an absolute path, a URI, or a REST catalog's own name.

    A bucket or container that the path lacks comes from its own key; `az://` is `abfs://` here.
    """
    text, store = str(iceberg.warehouse_path).rstrip("/") or "/", iceberg.object_store
    if "://" not in text and store.type != "filesystem" and store.root:
        root = store.root if "://" in store.root else f"{_SCHEMES[store.type]}://{store.root}"
        text = f"{root.rstrip('/')}/{text.lstrip('./')}".rstrip("/")
    scheme, separator, rest = text.partition("://")
    if separator:
        scheme = {"az": "abfs"}.get(scheme.lower(), scheme.lower())
        if not rest.partition("/")[0]:
            rest = (_bucket(iceberg, scheme) or "") + rest
        return f"{scheme}://{rest}"
    if text.startswith("file:") or (is_name(text) and iceberg.catalog_type in ("rest", "nessie")):
        return text
    return str(Path(text).expanduser().absolute())


def _bucket(iceberg: Iceberg, scheme: str) -> str | None:
    if scheme in ("gs", "gcs"):
        return iceberg.gcs_bucket_name
    if scheme in ("abfs", "abfss", "wasb", "wasbs"):
        return iceberg.azure_container_name
    return None


def is_name(warehouse: str) -> bool:
    """Whether this is a name that only the catalog can resolve, and no path or URI."""
    return not warehouse.startswith((".", "/", "~", "file:")) and "/" not in warehouse


def store_properties(iceberg: Iceberg, secrets: Mapping[str, str]) -> dict[str, str]:
    """PyIceberg's properties for the store, logins included: not to be logged."""
    timeout = str(iceberg.catalog_manager.request_timeout_seconds)
    given = {
        "py-io-impl": DURABLE_FILE_IO,
        "s3.endpoint": iceberg.s3_endpoint,
        "s3.region": iceberg.aws_region,
        "s3.access-key-id": secrets.get("iceberg.aws_access_key_id"),
        "s3.secret-access-key": secrets.get("iceberg.aws_secret_access_key"),
        "s3.connect-timeout": timeout,
        "s3.request-timeout": timeout,
        "adls.account-name": iceberg.azure_storage_account_name,
        "adls.account-key": secrets.get("iceberg.azure_access_key"),
    }
    if iceberg.s3_endpoint and not iceberg.aws_region:
        given["s3.region"] = "us-east-1"  # else PyIceberg asks AWS where the bucket is
    if iceberg.gcs_service_account_path is not None:
        # Google's client library reads it from here and from nowhere else.
        path = str(iceberg.gcs_service_account_path)
        os.environ.setdefault("GOOGLE_APPLICATION_CREDENTIALS", path)
    return {key: str(value) for key, value in given.items() if value}


def probe(io: FileIO, folder: str) -> None:
    """Writes, reads and deletes one small file in `folder`. May block.

    Raises:
        ServiceError: no right, no bucket, no space, or other bytes came back.
        TransientError: the store is away.
    """
    location = f"{folder.rstrip('/')}/k2i-check-{uuid.uuid4().hex}.tmp"
    with translated(f"writing to {folder}"), io.new_output(location).create() as stream:
        stream.write(_PROBE)
    with translated(f"reading from {folder}"), io.new_input(location).open() as stream:
        found = stream.read()
    with translated(f"deleting from {folder}"):
        remove(io, location)
    if found != _PROBE:
        raise ServiceError(
            f"The store gave back {len(found)} other bytes than were written to {folder}.",
            component=Component.STORAGE,
        )

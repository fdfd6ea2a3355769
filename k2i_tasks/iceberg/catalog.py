"""Catalogs from the configuration: with time-outs, and with commits whose failures are ours."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from pyiceberg.catalog import Catalog
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.io import FileIO, load_file_io
from pyiceberg.table import CommitTableResponse, Table
from pyiceberg.table.metadata import TableMetadata
from requests import Session

from k2i_tasks.config.model_iceberg import Iceberg
from k2i_tasks.errors import Component, ConfigError, K2IError, ServiceError
from k2i_tasks.iceberg.errors import commit_outcome, translated, without_secrets
from k2i_tasks.iceberg.files import make_folder, remove
from k2i_tasks.iceberg.names import identifier_of
from k2i_tasks.iceberg.reading import correct
from k2i_tasks.iceberg.schema import must_suit
from k2i_tasks.iceberg.store import is_name, probe, store_properties, warehouse_location

_TIMEOUT = "k2i.request-timeout-seconds"


class TimedRestCatalog(RestCatalog):
    """PyIceberg's REST catalog, whose requests end: its own have no time-out at all."""

    def _config_headers(self, session: Session) -> None:
        # The first thing done with each new session, before it asks for a token.
        super()._config_headers(session)
        limited = functools.partial(session.request, timeout=float(self.properties[_TIMEOUT]))
        session.request = limited  # type: ignore[method-assign]

    @staticmethod
    def _delete_old_metadata(io: FileIO, base: TableMetadata, metadata: TableMetadata) -> None:
        # The catalog deletes them itself, as a rule: each commit would warn that one is not there.
        forgiving = cast(FileIO, _Forgiving(io))
        RestCatalog._delete_old_metadata(forgiving, base, metadata)


class _Forgiving:
    """Deletes what may have been deleted already."""

    def __init__(self, io: FileIO) -> None:
        self._io = io

    def delete(self, location: str) -> None:
        remove(self._io, location)


def open_catalog(iceberg: Iceberg, secrets: Mapping[str, str]) -> Catalog:
    """Connects to the configured catalog. May block up to its request time-out.

    For one thread: PyIceberg keeps per-table logins in the connection.

    Args:
        iceberg: catalog, login and store.
        secrets: plain text by the dotted name of the key (`iceberg.rest.credential`).

    Raises:
        ConfigError: a driver is not installed, or the URL is unusable.
        ServiceError: the login is refused.
        TransientError: the catalog is away.
    """
    correct()
    properties = {
        "warehouse": warehouse_location(iceberg),
        **store_properties(iceberg, secrets),
        **iceberg.catalog_properties,
    }
    kind = iceberg.catalog_type
    where = f" at {without_secrets(_rest_uri(iceberg))}" if kind in ("rest", "nessie") else ""
    with translated(f"connecting to the {kind} catalog{where}"):
        if kind in ("rest", "nessie"):
            rest = _rest_properties(iceberg, secrets)
            return TimedRestCatalog(iceberg.catalog_name, **properties, **rest)
        if kind == "sql":
            url = sql_url(iceberg)
            properties |= {"uri": url, "pool_pre_ping": "true"}
            sql = _installed("pyiceberg.catalog.sql", "SqlCatalog", "sql-sqlite")
            return sql(iceberg.sql_catalog.catalog_name, **properties)
        if kind == "hive":
            properties["uri"] = str(iceberg.hive_metastore_uri)
            hive = _installed("pyiceberg.catalog.hive", "HiveCatalog", "hive")
            return hive(iceberg.catalog_name, **properties)
        properties |= _glue_properties(iceberg, secrets)
        glue = _installed("pyiceberg.catalog.glue", "GlueCatalog", "glue")
        return glue(iceberg.catalog_name, **properties)


def _installed(module: str, name: str, extra: str) -> Callable[..., Catalog]:
    try:
        found: Callable[..., Catalog] = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ConfigError(
            f"The {extra} catalog needs a package that is not installed: {error.name}.",
            field="iceberg.catalog_type",
            remedy=f"Install it with `pip install 'pyiceberg[{extra}]'`.",
        ) from error
    return found


def _rest_properties(iceberg: Iceberg, secrets: Mapping[str, str]) -> dict[str, str]:
    rest, prefix = iceberg.rest, "iceberg.rest.custom_headers."
    timeout = rest.request_timeout_seconds or iceberg.catalog_manager.request_timeout_seconds
    found = {"uri": _rest_uri(iceberg), _TIMEOUT: str(timeout)}
    for key, value in secrets.items():
        if key.startswith(prefix):
            found[f"header.{key.removeprefix(prefix)}"] = value
    if rest.credential_type == "bearer":
        found["token"] = secrets["iceberg.rest.credential"]
    if rest.credential_type == "oauth2":
        client = secrets["iceberg.rest.oauth2_client_id"]
        found["credential"] = f"{client}:{secrets['iceberg.rest.oauth2_client_secret']}"
        if rest.oauth2_token_endpoint:
            found["oauth2-server-uri"] = str(rest.oauth2_token_endpoint)
        if rest.oauth2_scope:
            found["scope"] = rest.oauth2_scope
    return found


def _rest_uri(iceberg: Iceberg) -> str:
    """The REST address; Nessie's Iceberg endpoint with the branch, whichever address is given."""
    uri = str(iceberg.rest_uri).rstrip("/")
    if iceberg.catalog_type != "nessie":
        return uri
    base, found, rest = re.sub(r"/api(/v[12])?$", "", uri).partition("/iceberg")
    return uri if found and rest else f"{base}/iceberg/{iceberg.nessie.default_branch}"


def _glue_properties(iceberg: Iceberg, secrets: Mapping[str, str]) -> dict[str, str]:
    given = {
        "glue.id": iceberg.glue.catalog_id,
        "glue.region": iceberg.aws_region,
        "glue.access-key-id": secrets.get("iceberg.aws_access_key_id"),
        "glue.secret-access-key": secrets.get("iceberg.aws_secret_access_key"),
    }
    return {key: value for key, value in given.items() if value}


def sql_url(iceberg: Iceberg) -> str:
    """The database's URL with a driver that is installed and a bound on waiting. Makes the folder.

    Raises:
        ConfigError: no driver, an in-memory database, or no URL.
    """
    from sqlalchemy.engine import make_url  # half a second, for those who need it

    where = "iceberg.sql_catalog.url"
    text = re.sub(r"^sqlite:(?://)?(?!/)", "sqlite:///", str(iceberg.sql_catalog.url or ""))
    text = re.sub(r"^sqlite:/(?!/)", "sqlite:////", text)
    text = re.sub(r"^postgres(ql)?://", lambda _: f"postgresql+{_postgres_driver()}://", text)
    try:
        url = make_url(text)
    except Exception as error:
        raise ConfigError(f"{where} is not a database URL.", field=where) from error
    seconds = str(iceberg.catalog_manager.request_timeout_seconds)
    if url.get_backend_name() == "sqlite":
        if not url.database or ":memory:" in url.database:
            raise ConfigError(f"{where} must name a file.", field=where)
        with translated("making the folder of the SQL catalog"):
            path = Path(url.database).expanduser().absolute()
            make_folder(path.parent)
        url = url.set(database=str(path)).update_query_dict({"timeout": seconds})
    elif "connect_timeout" not in url.query:
        url = url.update_query_dict({"connect_timeout": seconds})
    return url.render_as_string(hide_password=False)


def _postgres_driver() -> str:
    for name in ("psycopg", "psycopg2"):
        if importlib.util.find_spec(name):
            return name
    raise ConfigError(
        "A SQL catalog in PostgreSQL needs a driver, and none is installed.",
        field="iceberg.sql_catalog.url",
        remedy="Install one beside K2I: pip install 'psycopg[binary]'.",
    )


def guard_commits(catalog: Catalog) -> Catalog:
    """Makes every failure of `catalog.commit_table` leave as an error of ours. Idempotent.

    PyIceberg's retry re-parents stale appends without a check, and on its last attempt deletes
    manifests that may have landed; both happen on its own exceptions only, and none leaves here.

    Returns:
        The same catalog.
    """
    if getattr(catalog.commit_table, "guarded", False):
        return catalog
    plain = catalog.commit_table

    def commit_table(table: Table, requirements: Any, updates: Any) -> CommitTableResponse:
        with commit_outcome("commit to " + ".".join(table.name())):
            return plain(table, requirements, updates)

    commit_table.guarded = True  # type: ignore[attr-defined]
    catalog.commit_table = commit_table  # type: ignore[method-assign]
    return catalog


def load_table(catalog: Catalog, identifier: tuple[str, ...]) -> Table:
    """The table as it is now. May block.

    Raises:
        ServiceError: there is no such table, or no right to read it.
        TransientError: the catalog is away.
    """
    with translated("reading table " + ".".join(identifier)):
        return catalog.load_table(identifier)


def find_table(catalog: Catalog, identifier: tuple[str, ...]) -> Table | None:
    """The table as it is now; None when there is none. May block.

    Raises:
        ServiceError: no right to read it.
        TransientError: the catalog is away.
    """
    try:
        return load_table(catalog, identifier)
    except K2IError as error:
        if isinstance(error.__cause__, NoSuchTableError):
            return None
        raise


def check_catalog(iceberg: Iceberg, secrets: Mapping[str, str]) -> str:
    """Tries the catalog: login, then the table, if one is named, and its columns. May block.

    Changes nothing.

    Returns:
        What was found, one sentence.

    Raises:
        K2IError: it does not work, and why.
    """
    catalog = open_catalog(iceberg, secrets)
    if not iceberg.table_name:
        with translated("listing the namespaces of the catalog"):
            catalog.list_namespaces()
        return "The catalog answers."
    identifier = identifier_of(iceberg.database_name, iceberg.table_name)
    name = ".".join(identifier)
    table = find_table(catalog, identifier)
    if table is not None:
        must_suit(table, iceberg)
        return f"Table {name} is there, with {len(table.schema().fields)} columns."
    if not iceberg.table_management.auto_create_if_missing:
        raise ServiceError(
            f"Table {name} does not exist.",
            component=Component.ICEBERG,
            remedy="Create it, or set iceberg.table_management.auto_create_if_missing = true.",
        )
    with translated("listing the namespaces of the catalog"):
        catalog.list_namespaces()
    return f"Table {name} will be created."


def check_store(iceberg: Iceberg, secrets: Mapping[str, str]) -> str:
    """Writes, reads and deletes one small file where the table's files go. May block.

    Without a table that is named: in the warehouse.

    Returns:
        What was found, one sentence.

    Raises:
        K2IError: it does not work, and why.
    """
    catalog = open_catalog(iceberg, secrets)
    table = None
    if iceberg.table_name:
        table = find_table(catalog, identifier_of(iceberg.database_name, iceberg.table_name))
    if table is not None:
        folder = table.location()
        probe(table.io, folder)
        return f"{folder} can be written."
    folder = warehouse_location(iceberg)
    if is_name(folder):
        return f"Only the catalog knows where warehouse {folder!r} is; the table tells once made."
    with translated(f"opening {folder}"):
        io = load_file_io(catalog.properties, folder)
    probe(io, folder)
    return f"{folder} can be written."

"""K2I's own TOML, in both of its forms, read as K2I reads it.

Which file is K2I's own? One that K2I itself would run, and that does not use anything of ours:

1. `format_version = 1` at the top: it is ours, and strict.
2. Any key that K2I does not have but we do (`[prefect]`, `kafka.on_gap`, ...), or one that is a
   near miss of such a key (`kafka.on_gapp`), or a secret given as `env:` or `file:`: ours, strict.
3. A mark of K2I's first form (`kafka.group_id`, `iceberg.warehouse`, `[storage]`, `[server]`,
   servers as one text, ...): K2I's first form.
4. All seven keys that K2I 0.3.0 requires: K2I's own.
5. Anything else: ours, strict. K2I would not start with it either.

In a strict file an unknown key is an error. In K2I's own files unknown keys are ignored, as K2I
does, but each is reported, with the nearest known name.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from k2i_tasks.config.keys import Path, Unknown, all_keys, by_path, unknown_keys
from k2i_tasks.errors import ConfigError

#: Keys without which K2I 0.3.0 does not start.
REQUIRED: tuple[Path, ...] = (
    ("kafka", "bootstrap_servers"),
    ("kafka", "topic"),
    ("kafka", "consumer_group"),
    ("iceberg", "catalog_type"),
    ("iceberg", "warehouse_path"),
    ("iceberg", "database_name"),
    ("iceberg", "table_name"),
)
#: Keys of the first form and what they are called since.
RENAMED: dict[Path, Path] = {
    ("kafka", "group_id"): ("kafka", "consumer_group"),
    ("iceberg", "warehouse"): ("iceberg", "warehouse_path"),
    ("iceberg", "database"): ("iceberg", "database_name"),
    ("iceberg", "table"): ("iceberg", "table_name"),
    ("server", "health_port"): ("monitoring", "health_port"),
    ("server", "metrics_port"): ("monitoring", "metrics_port"),
    ("storage", "region"): ("iceberg", "aws_region"),
}
_STORES = {"s3": "s3", "gcs": "gcs", "gs": "gcs", "azure": "azure", "az": "azure"}
_BUCKET_KEY = {"gcs": "gcs_bucket_name", "azure": "azure_container_name"}
_SCHEME = {"s3": "s3", "gcs": "gs", "azure": "az"}
_SQLITE = re.compile(r"sqlite:(?://)?(?P<path>[^?]+)(?P<query>\?.*)?")
BATCH_SIZE = 1_000


class Form(StrEnum):
    """Whose file it is."""

    NATIVE = "native"
    K2I = "K2I 0.3.0"
    K2I_FIRST = "K2I's first form"


def _at(raw: Mapping[str, Any], path: Path) -> Any:
    """The value at `path`, None where there is none."""
    value: Any = raw
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]
    return value


def _first_form_marks(raw: Mapping[str, Any]) -> list[Path]:
    marks = [path for path in RENAMED if _at(raw, path) is not None]
    if isinstance(_at(raw, ("kafka", "bootstrap_servers")), str):
        marks.append(("kafka", "bootstrap_servers"))
    marks += [(name,) for name in ("storage", "server") if isinstance(raw.get(name), Mapping)]
    return marks


def _unknown(raw: Mapping[str, Any]) -> list[Unknown]:
    """Unknown keys, without those that only the first form has."""
    old = {*RENAMED, ("storage",), ("server",), ("storage", "type"), ("storage", "bucket")}
    return [found for found in unknown_keys(raw) if found.path not in old]


def _uses_ours(raw: Mapping[str, Any]) -> bool:
    """Whether the file has anything that K2I does not know and we do."""
    for key in all_keys():
        value = _at(raw, key.path)
        if value is None:
            continue
        if key.native:
            return True
        if key.kind == "secret" and isinstance(value, str) and value.startswith(("env:", "file:")):
            return True
        if key.item is not None and isinstance(value, list):
            known = {
                n
                for n, f in key.item.model_fields.items()
                if f.json_schema_extra == {"native": True}
            }
            if any(isinstance(entry, Mapping) and known & set(entry) for entry in value):
                return True
    native_sections = {key.path[:n] for key in all_keys() if key.native for n in (1, 2)}
    native_sections -= {key.path[:n] for key in all_keys() if not key.native for n in (1, 2)}
    if any(_at(raw, path) is not None for path in native_sections):
        return True
    return any(found.native for found in _unknown(raw))


def form_of(raw: Mapping[str, Any]) -> Form:
    """Whose file `raw` is, by the rule at the top of this module."""
    if "format_version" in raw or _uses_ours(raw):
        return Form.NATIVE
    if _first_form_marks(raw):
        return Form.K2I_FIRST
    if all(_at(raw, path) is not None for path in REQUIRED):
        return Form.K2I
    return Form.NATIVE


def to_native(raw: Mapping[str, Any], form: Form) -> tuple[dict[str, Any], list[str]]:
    """K2I's file as ours.

    Args:
        raw: the parsed TOML.
        form: one of K2I's two.

    Returns:
        The native tables, and what there is to remark, one sentence each.

    Raises:
        ConfigError: a key is given under both of its names, or cannot be carried over.
    """
    tables = copy.deepcopy(dict(raw))
    remarks: list[str] = []
    if form is Form.K2I_FIRST:
        _from_first_form(tables)
    for found in list(unknown_keys(tables)):
        near = f" (the nearest key is {'.'.join(found.nearest)})" if found.nearest else ""
        remarks.append(f"{found.dotted} is not known and is ignored, as K2I does{near}.")
        _remove(tables, found.path)
    kafka = tables.get("kafka")
    if isinstance(kafka, dict):
        kafka.setdefault("batch_size", BATCH_SIZE)
    _secrets_as_written(tables, remarks)
    _sqlite_as_sqlalchemy(tables, remarks)
    for entry in _at(tables, ("iceberg", "partition_spec")) or ():
        if isinstance(entry, dict):
            entry["if_missing"] = "skip"
    remarks += _other_here(tables)
    return tables, remarks


def _from_first_form(tables: dict[str, Any]) -> None:
    servers = _at(tables, ("kafka", "bootstrap_servers"))
    if isinstance(servers, str):
        tables["kafka"]["bootstrap_servers"] = [part.strip() for part in servers.split(",")]
    storage = tables.get("storage")
    if isinstance(storage, dict):
        _bucket(tables, storage)
        kind = str(storage.pop("type", "filesystem")).lower()
        if _STORES.get(kind) != "s3":
            storage.pop("region", None)
    for old, new in RENAMED.items():
        value = _at(tables, old)
        if value is None:
            continue
        if _at(tables, new) is not None:
            raise ConfigError(
                f"{'.'.join(old)} is the older name of {'.'.join(new)}, and both are given.",
                field=".".join(new),
                remedy="Remove one of them.",
            )
        _remove(tables, old)
        _put(tables, new, value)
    for name in ("storage", "server"):
        if not tables.get(name, True):
            del tables[name]


def _bucket(tables: dict[str, Any], storage: dict[str, Any]) -> None:
    """`storage.bucket` goes where the warehouse does not already name one."""
    bucket = storage.pop("bucket", None)
    store = _STORES.get(str(storage.get("type", "")).lower())
    if bucket is None or store is None:
        return
    warehouse = _at(tables, ("iceberg", "warehouse"))
    if isinstance(warehouse, str) and "://" not in warehouse:
        folder = warehouse.lstrip("./")
        tables["iceberg"]["warehouse"] = f"{_SCHEME[store]}://{bucket}/{folder}"
    if store in _BUCKET_KEY and isinstance(tables.get("iceberg"), dict):
        tables["iceberg"].setdefault(_BUCKET_KEY[store], bucket)


def _secrets_as_written(tables: dict[str, Any], remarks: list[str]) -> None:
    """K2I takes a text as the secret itself, whatever it begins with."""
    for key in all_keys():
        value = _at(tables, key.path)
        if key.kind == "secret" and isinstance(value, str) and value:
            if value.startswith("${") and value.endswith("}"):
                remarks.append(
                    f"{key.dotted} is taken as it is written: as in K2I, "
                    f"{'$'}{{...}} is not replaced; use {key.variable} instead."
                )
            _put(tables, key.path, {"value": value})


def _sqlite_as_sqlalchemy(tables: dict[str, Any], remarks: list[str]) -> None:
    """K2I's `sqlite:///srv/x.db` is an absolute path; SQLAlchemy needs a fourth slash for it."""
    url = _at(tables, ("iceberg", "sql_catalog", "url"))
    if not isinstance(url, str):
        return
    if (match := _SQLITE.fullmatch(url)) and match["path"] != ":memory:":
        _put(tables, ("iceberg", "sql_catalog", "url"), f"sqlite:///{match['path']}")
        if match["query"]:
            remarks.append("iceberg.sql_catalog.url: what follows the question mark is not used.")
    elif url.startswith("postgres://"):
        _put(tables, ("iceberg", "sql_catalog", "url"), url.replace("postgres", "postgresql", 1))


def _other_here(tables: dict[str, Any]) -> list[str]:
    """Where the same file means something else than it does to K2I."""
    remarks = [
        "K2I serves health and metrics on all interfaces, this on 127.0.0.1 only: "
        "set K2I_MONITORING_HEALTH_HOST and K2I_MONITORING_METRICS_HOST to open them."
    ]
    if str(_at(tables, ("kafka", "format", "type"))).lower() == "json":
        remarks.append(
            "kafka.format.type json: K2I keeps the bytes of a value, here it becomes typed columns."
        )
    return remarks


def _put(tables: dict[str, Any], path: Path, value: Any) -> None:
    for name in path[:-1]:
        tables = tables.setdefault(name, {})
        if not isinstance(tables, dict):
            raise ConfigError(f"{'.'.join(path[:-1])} must be a table.", field=".".join(path[:-1]))
    tables[path[-1]] = value


def _remove(tables: dict[str, Any], path: Path) -> None:
    place: Any = tables
    for name in path[:-1]:
        place = place[int(name)] if isinstance(place, list) else place[name]
    del place[path[-1]]


def current_name(path: Path) -> Path | None:
    """What a key of the first form is called now, None when it is not of that form."""
    new = RENAMED.get(path)
    return new if new in by_path() else None

"""Settings from the environment: `K2I_<SECTION>_<KEY>`, over those of the file.

The names are made from the model, so `K2I_ICEBERG_REST_URI` is `iceberg.rest_uri` and
`K2I_ICEBERG_REST_CREDENTIAL` is `iceberg.rest.credential`: no two keys share a name. Lists of
texts and numbers are separated by commas, tables and lists of tables are JSON. An empty text
sets a key that may be absent to absent.

A `K2I_` variable that is no key is an error that names the nearest one; beside one of K2I's own
files it is reported and ignored, as K2I does. Left alone are
`K2I_CONFIG`, `K2I_TEST_*`, the prefixes of K2I's own tools, and what Kubernetes sets in every
container for a service named `k2i` (`K2I_SERVICE_HOST`, `K2I_PORT=tcp://...`).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from typing import Any

from k2i_tasks.config.keys import Key, Kind, Path, all_keys
from k2i_tasks.errors import ConfigError

PREFIX = "K2I_"
IGNORED_NAMES = ("K2I_CONFIG", "K2I_ICEBERG_METADATA_PATH")
IGNORED_PREFIXES = ("K2I_TEST_", "K2I_E2E_", "K2I_PARQUET_", "K2I_RELEASE_")
_SERVICE_HOST = re.compile(r"K2I_([A-Z0-9_]+_)?SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)")
_SERVICE_PORT = re.compile(r"K2I_([A-Z0-9_]+_)?PORT(_[0-9]+_(TCP|UDP|SCTP)(_[A-Z]+)?)?")
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://")
_PORT_DETAIL = re.compile(r"_PORT_[0-9]+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)$")
_WORDS = {"true": True, "1": True, "yes": True, "on": True}
_WORDS |= {"false": False, "0": False, "no": False, "off": False}


def from_environment(
    environ: Mapping[str, str], remarks: list[str] | None = None
) -> dict[Path, tuple[Any, str]]:
    """The settings in `environ`.

    Args:
        environ: names to texts, such as `os.environ`.
        remarks: takes a sentence for each `K2I_` variable that is no key, which is then ignored.

    Returns:
        Path of the key to its value and the variable that gave it.

    Raises:
        ConfigError: a `K2I_` variable is no key (unless there are `remarks`), or its text is no
            value for it.
    """
    known = {key.variable: key for key in all_keys()}
    found: dict[Path, tuple[Any, str]] = {}
    for name, text in environ.items():
        if not name.startswith(PREFIX):
            continue
        key = known.get(name)
        if key is not None:
            found[key.path] = (value_from_text(key, text, origin=name), name)
        elif not _is_ignored(name, text):
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            what = f"{name} is not a setting" + (f"; the nearest is {near[0]}." if near else ".")
            if remarks is not None:
                remarks.append(f"{what} It is ignored, as K2I does.")
                continue
            raise ConfigError(
                what,
                field=known[near[0]].dotted if near else name,
                remedy="Correct its name, or remove it from the environment.",
            )
    return found


def _is_ignored(name: str, text: str) -> bool:
    if name in IGNORED_NAMES or name.startswith(IGNORED_PREFIXES):
        return True
    if _SERVICE_HOST.fullmatch(name) or _PORT_DETAIL.search(name):
        return True
    return bool(_SERVICE_PORT.fullmatch(name) and _SERVICE_URL.match(text))


def value_from_text(key: Key, text: str, *, origin: str) -> Any:
    """The value that `text` stands for in `key`.

    Args:
        key: the setting.
        text: as found in a variable or on a command line.
        origin: where it was found, for messages, which never repeat the text.

    Raises:
        ConfigError: it is no value for that key.
    """
    if text == "" and key.optional:
        return None
    try:
        if key.kind == "list" and key.item is None:
            if (items := _json_list(text)) is not None:
                return items
            parts = [part.strip() for part in text.split(",") if part.strip()]
            return [_scalar(key.kind_of_item or "text", part) for part in parts]
        if key.kind in ("list", "table"):
            return json.loads(text)
        if key.kind == "secret" and text.startswith("{"):
            return _secret_table(text)
        return _scalar(key.kind, text)
    except ValueError as error:
        what = "is not JSON" if isinstance(error, json.JSONDecodeError) else str(error)
        raise ConfigError(
            f"{origin} ({key.dotted}) {what}.",
            field=key.dotted,
            remedy="Correct the value, or take it away.",
        ) from None


def _json_list(text: str) -> list[Any] | None:
    """`text` as a JSON list, None when it is not one: `[::1]:9092` is a server."""
    try:
        items = json.loads(text)
    except json.JSONDecodeError:
        return None
    return items if isinstance(items, list) else None


def _secret_table(text: str) -> Any:
    """`{"file": ...}` as a table; any other text with a brace is the secret itself."""
    try:
        table = json.loads(text)
    except json.JSONDecodeError:
        return text
    ours = isinstance(table, dict) and len(table) == 1 and ("file" in table or "value" in table)
    return table if ours else text


def _scalar(kind: Kind, text: str) -> Any:
    if kind == "flag":
        if text.strip().lower() not in _WORDS:
            raise ValueError("must be true or false")
        return _WORDS[text.strip().lower()]
    if kind == "integer":
        if not re.fullmatch(r"\s*[+-]?[0-9][0-9_]{0,18}\s*", text):
            raise ValueError("must be a whole number")
        return int(text)
    if kind == "number":
        try:
            return float(text)
        except ValueError:
            raise ValueError("must be a number") from None
    return text

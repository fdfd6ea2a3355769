"""Reading a configuration: the file, then the environment, then the command line.

A file is one of ours or K2I's own; the rule is in `k2i_toml`. In ours an unknown key is an error
that names the nearest known one.
"""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

from k2i_tasks.config.environment import from_environment
from k2i_tasks.config.k2i_toml import Form, current_name, form_of, to_native
from k2i_tasks.config.keys import Path, Unknown, unknown_keys
from k2i_tasks.config.model import Config
from k2i_tasks.config.routes import check_routing, narrowed
from k2i_tasks.config.tables import REFERENCE, SHOWN_MAX, given, located, put, validated
from k2i_tasks.errors import ConfigError

FORMAT_VERSION = 1
FILE_BYTES_MAX = 1_048_576
_PLACE = re.compile(r"\s*\(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$")


def load_config(
    path: FilePath | None, *, environ: Mapping[str, str], overrides: Mapping[str, Any]
) -> Config:
    """The configuration from `path`, `environ` and `overrides`, each over the one before.

    With `routing.topic` it is that of one topic and its table, and has no `routing`.

    Args:
        path: the TOML file; None for none.
        environ: `K2I_*` variables and others.
        overrides: `section.key` (or nested tables) to values; texts are read as in the
            environment; None means not given.

    Raises:
        ConfigError: what is wrong, where, and the name of the key in `field`.
    """
    source = str(path) if path is not None else "configuration"
    tables, remarks, form = _from_file(path) if path is not None else ({}, [], Form.NATIVE)
    origins: dict[Path, str] = {}
    changes = from_environment(environ, None if form is Form.NATIVE else remarks)
    changes |= {key: (value, "option") for key, value in given(overrides)}
    for at, (value, origin) in changes.items():
        put(tables, at, value, source)
        origins[at] = origin
    config = validated(tables, source, origins)
    try:
        check_routing(config)
        config = narrowed(config)
    except ConfigError as error:
        raise located(error, source) from None
    config._load_notes = tuple(remarks)
    return config


def _from_file(path: FilePath) -> tuple[dict[str, Any], list[str], Form]:
    raw = _parsed(path)
    form = form_of(raw)
    if form is not Form.NATIVE:
        try:
            return *to_native(raw, form), form
        except ConfigError as error:
            raise located(error, str(path)) from None
    tables = copy.deepcopy(raw)
    version = tables.pop("format_version", FORMAT_VERSION)
    if type(version) is not int or version != FORMAT_VERSION:
        raise ConfigError(
            f"{path}: format_version must be {FORMAT_VERSION}.", field="format_version"
        )
    unknown = list(unknown_keys(raw))
    if unknown:
        text = "; ".join(_unknown_sentence(found) for found in unknown[:SHOWN_MAX])
        raise ConfigError(
            f"{path}: {text}.",
            field=unknown[0].dotted,
            remedy=f"Correct or remove it. {REFERENCE}",
        )
    return tables, [], form


def _unknown_sentence(found: Unknown) -> str:
    nearest = current_name(found.path) or found.nearest
    near = f", the nearest is {'.'.join(nearest)}" if nearest else ""
    return f"{found.dotted} is not a known key{near}"


def _parsed(path: FilePath) -> dict[str, Any]:
    try:
        if path.is_dir():
            raise ConfigError(f"{path} is a folder, not a file.", field="config")
        with path.open("rb") as file:
            body = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(
            f"The configuration file {path} cannot be read: {error.strerror}.",
            field="config",
            remedy="Name another one with --config.",
        ) from None
    if len(body) > FILE_BYTES_MAX:
        raise ConfigError(f"{path} is larger than {FILE_BYTES_MAX} bytes.", field="config")
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        column = error.start - (body.rfind(b"\n", 0, error.start) + 1) + 1
        raise ConfigError(
            f"{path}: line {line}, column {column}: not UTF-8 text.", field="config"
        ) from None
    try:
        return tomllib.loads(text)
    except ValueError as error:  # a TOMLDecodeError, or a number of thousands of digits
        what = _syntax_sentence(path, text, str(error))
        raise ConfigError(what, field="config", remedy=f"Correct the line. {REFERENCE}") from None
    except RecursionError:
        raise ConfigError(f"{path}: tables are nested too deeply.", field="config") from None


def _syntax_sentence(path: FilePath, text: str, message: str) -> str:
    place = _PLACE.search(message)
    what = _PLACE.sub("", message)
    if place and place["line"]:
        line, column = int(place["line"]), int(place["column"])
    else:
        line = text.count("\n") + 1
        column = len(text) - (text.rfind("\n") + 1) + 1
    return f"{path}: line {line}, column {column}: not TOML: {what}."

"""Reading a configuration: the file, then the environment, then the command line.

A file is one of ours or K2I's own; the rule is in `k2i_toml`. In ours an unknown key is an error
that names the nearest known one.
"""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from k2i_tasks.config.environment import from_environment, value_from_text
from k2i_tasks.config.k2i_toml import Form, current_name, form_of, to_native
from k2i_tasks.config.keys import Path, Unknown, by_path, unknown_keys
from k2i_tasks.config.model import Config
from k2i_tasks.errors import ConfigError

FORMAT_VERSION = 1
FILE_BYTES_MAX = 1_048_576
#: Ends a message about a file's content.
REFERENCE = "docs/configuration.md has an example, and lists all keys with what they may be."
_SHOWN_MAX = 8
_BOUND_ERRORS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
_PLACE = re.compile(r"\s*\(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$")
_SUBJECT = re.compile(r"^(Input|String|Value|Tuple|Dictionary|List|Data) should ")


def load_config(
    path: FilePath | None, *, environ: Mapping[str, str], overrides: Mapping[str, Any]
) -> Config:
    """The configuration from `path`, `environ` and `overrides`, each over the one before.

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
    changes |= {key: (value, "option") for key, value in _given(overrides)}
    for at, (value, origin) in changes.items():
        _put(tables, at, value, source)
        origins[at] = origin
    config = _validated(tables, source, origins)
    config._load_notes = tuple(remarks)
    return config


def _from_file(path: FilePath) -> tuple[dict[str, Any], list[str], Form]:
    raw = _parsed(path)
    form = form_of(raw)
    if form is not Form.NATIVE:
        try:
            return *to_native(raw, form), form
        except ConfigError as error:
            raise _located(error, str(path)) from None
    tables = copy.deepcopy(raw)
    version = tables.pop("format_version", FORMAT_VERSION)
    if type(version) is not int or version != FORMAT_VERSION:
        raise ConfigError(
            f"{path}: format_version must be {FORMAT_VERSION}.", field="format_version"
        )
    unknown = list(unknown_keys(raw))
    if unknown:
        text = "; ".join(_unknown_sentence(found) for found in unknown[:_SHOWN_MAX])
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


def _given(overrides: Mapping[str, Any], at: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The overrides by path, texts turned into values."""
    known = by_path()
    for name, value in overrides.items():
        path = (*at, *name.split("."))
        key = known.get(path)
        if value is None:
            continue
        if key is None and isinstance(value, Mapping):
            yield from _given(value, path)
        elif key is None:
            raise ConfigError(f"{'.'.join(path)} is not a known key.", field=".".join(path))
        elif isinstance(value, str):
            yield path, value_from_text(key, value, origin="option")
        else:
            yield path, value


def _put(tables: dict[str, Any], at: Path, value: Any, source: str) -> None:
    for depth, name in enumerate(at[:-1]):
        tables = tables.setdefault(name, {})
        if not isinstance(tables, dict):
            field = ".".join(at[: depth + 1])
            raise ConfigError(f"{source}: {field} must be a table.", field=field)
    tables[at[-1]] = value


def _validated(tables: dict[str, Any], source: str, origins: Mapping[Path, str]) -> Config:
    try:
        return Config.model_validate(tables)
    except ConfigError as error:
        raise _located(error, source) from None
    except ValidationError as error:
        problems = error.errors(include_url=False)
    sentences = [_sentence(problem, origins) for problem in problems[:_SHOWN_MAX]]
    more = len(problems) - len(sentences)
    text = "; ".join(sentences) + (f"; and {more} more" if more > 0 else "")
    raise ConfigError(f"{source}: {text}.", field=_dotted(problems[0]["loc"]), remedy=REFERENCE)


def _located(error: ConfigError, source: str) -> ConfigError:
    return ConfigError(f"{source}: {error.what}", field=error.field, remedy=error.remedy)


def _dotted(place: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in place if part != "[key]")


def _sentence(problem: Any, origins: Mapping[Path, str]) -> str:
    """One problem of pydantic's in our words; of values, only numbers out of bounds are shown."""
    place = problem["loc"]
    kind = problem["type"]
    if kind == "missing":
        what = "is required"
    elif kind == "value_error":
        what = str(problem["ctx"]["error"])
    else:
        what = _SUBJECT.sub("must ", problem["msg"])
        if kind in _BOUND_ERRORS:
            what += f" (it is {problem['input']})"
    origin = next((name for at, name in origins.items() if at == place[: len(at)]), None)
    prefix = f"{origin}: " if origin else ""
    return f"{prefix}{_dotted(place)} {what}"

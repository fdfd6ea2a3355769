"""Nested tables of settings: overrides laid into them, and the configuration that they make."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from k2i_tasks.config.environment import value_from_text
from k2i_tasks.config.keys import Path, by_path
from k2i_tasks.config.model import Config
from k2i_tasks.errors import ConfigError

#: Ends a message about a file's content.
REFERENCE = "docs/configuration.md has an example, and lists all keys with what they may be."
SHOWN_MAX = 8
_BOUND_ERRORS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
_SUBJECT = re.compile(r"^(Input|String|Value|Tuple|Dictionary|List|Data) should ")


def given(overrides: Mapping[str, Any], at: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The overrides by path, texts turned into values.

    Raises:
        ConfigError: one is no known key, or its text no value for it.
    """
    known = by_path()
    for name, value in overrides.items():
        path = (*at, *name.split("."))
        key = known.get(path)
        if value is None:
            continue
        if key is None and isinstance(value, Mapping):
            yield from given(value, path)
        elif key is None:
            raise ConfigError(f"{'.'.join(path)} is not a known key.", field=".".join(path))
        elif isinstance(value, str):
            yield path, value_from_text(key, value, origin="option")
        else:
            yield path, value


def put(tables: dict[str, Any], at: Path, value: Any, source: str) -> None:
    """Sets one key in nested tables, which are made as needed.

    Raises:
        ConfigError: something on the way is no table.
    """
    for depth, name in enumerate(at[:-1]):
        tables = tables.setdefault(name, {})
        if not isinstance(tables, dict):
            field = ".".join(at[: depth + 1])
            raise ConfigError(f"{source}: {field} must be a table.", field=field)
    tables[at[-1]] = value


def validated(tables: dict[str, Any], source: str, origins: Mapping[Path, str]) -> Config:
    """The configuration that `tables` make.

    Args:
        tables: values, or whole sections, by name.
        source: where they come from, for messages.
        origins: path of a key to what else has set it.

    Raises:
        ConfigError: it is wrong; names the key.
    """
    try:
        return Config.model_validate(tables)
    except ConfigError as error:
        raise located(error, source) from None
    except ValidationError as error:
        problems = error.errors(include_url=False)
    sentences = [_sentence(problem, origins) for problem in problems[:SHOWN_MAX]]
    more = len(problems) - len(sentences)
    text = "; ".join(sentences) + (f"; and {more} more" if more > 0 else "")
    raise ConfigError(f"{source}: {text}.", field=_dotted(problems[0]["loc"]), remedy=REFERENCE)


def located(error: ConfigError, source: str) -> ConfigError:
    """`error` with the place in front of what it says."""
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

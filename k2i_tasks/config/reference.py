"""Writes the configuration reference, from the model itself.

python -m k2i_tasks.config.reference > docs/configuration.md
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any, get_args

from pydantic_core import PydanticUndefined

from k2i_tasks.config.fields import Section
from k2i_tasks.config.keys import Key, all_keys, keys_of, literal_words
from k2i_tasks.config.model import Config
from k2i_tasks.config.notes import UNUSED
from k2i_tasks.config.reference_text import HEAD

_BOUNDS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}"}
_TYPES = {
    "flag": "boolean",
    "integer": "integer",
    "number": "number",
    "text": "text",
    "choice": "word",
    "path": "path",
    "secret": "secret",
    "table": "table of texts",
}


def markdown() -> str:
    """The whole reference."""
    return HEAD + "\n".join(_sections())


def _sections() -> Iterator[str]:
    groups: dict[tuple[str, ...], list[Key]] = {}
    for key in all_keys():
        groups.setdefault(key.path[:-1], []).append(key)
    for path in sorted(groups, key=_order):
        yield f"### `[{'.'.join(path)}]`\n"
        yield f"{_doc(path)}\n"
        yield from _table(groups[path], entries=False)
        for key in groups[path]:
            if key.item is not None:
                yield f"### `[[{key.dotted}]]`\n"
                yield f"{_sentence(key.item)}\n"
                yield from _table(list(keys_of(key.item, native=key.native)), entries=True)


def _order(path: tuple[str, ...]) -> tuple[int, ...]:
    """Sections in the order of the model, each followed by its own."""
    place: list[int] = []
    section: Any = Config
    for name in path:
        place.append(list(section.model_fields).index(name))
        section = _inner(section, name)
    return tuple(place)


def _inner(section: type[Section], name: str) -> Any:
    return section.model_fields[name].annotation


def _doc(path: tuple[str, ...]) -> str:
    section: Any = Config
    for name in path:
        section = _inner(section, name)
    return _sentence(section)


def _sentence(section: type[Section]) -> str:
    return " ".join((section.__doc__ or "").split())


def _table(keys: list[Key], *, entries: bool) -> Iterator[str]:
    last = "" if entries else " Environment |"
    rule = "" if entries else " --- |"
    yield f"| Key | Type | Default | Bounds |{last} What it does |"
    yield f"| --- | --- | --- | --- |{rule} --- |"
    for key in keys:
        variable = "" if entries else f" `{key.variable}` |"
        cells = (f"`{key.path[-1]}`", _type(key), _default(key), _bounds(key))
        yield f"| {' | '.join(cells)} |{variable} {_what(key)} |"
    yield ""


def _type(key: Key) -> str:
    if key.item is not None:
        return "list of tables"
    if key.kind == "list":
        return f"list of {_TYPES[key.kind_of_item or 'text']}s"
    return _TYPES[key.kind]


def _default(key: Key) -> str:
    value = key.default
    if value is PydanticUndefined:
        return "**required**"
    if value is None:
        return "not given"
    if value in ((), {}):
        return "empty"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{list(value)}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    return f"`{_number(value)}`" if isinstance(value, (int, float)) else f'`"{value}"`'


def _number(value: float) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _bounds(key: Key) -> str:
    words = literal_words(key.field.annotation)
    if words:
        return ", ".join(f"`{word}`" for word in words)
    found: list[str] = []
    for item in _constraints(key):
        for name, form in _BOUNDS.items():
            if (bound := getattr(item, name, None)) is not None:
                found.append(form.format(_number(bound)))
        if key.kind in ("text", "list", "table"):
            found += _lengths(item)
    return ", ".join(dict.fromkeys(found))


def _lengths(item: Any) -> Iterator[str]:
    least, most = getattr(item, "min_length", None), getattr(item, "max_length", None)
    if least is not None:
        yield f"length ≥ {least}"
    if most is not None:
        yield f"length ≤ {most}"
    pattern = getattr(item, "pattern", None)
    if isinstance(pattern, (str, re.Pattern)):
        text = pattern if isinstance(pattern, str) else pattern.pattern
        # A bar would end the table's cell.
        yield f"`{text}`".replace("|", r"\|")


def _constraints(key: Key) -> list[Any]:
    """Bounds on the field, and those that its type brings along below `| None`."""
    found = list(key.field.metadata)
    for inner in () if key.kind == "table" else get_args(key.field.annotation):
        found += getattr(inner, "__metadata__", ())
    flat: list[Any] = []
    for item in found:
        flat += getattr(item, "metadata", None) or [item]
    return flat


def _what(key: Key) -> str:
    text = (key.field.description or "").replace("|", r"\|")
    if key.dotted in UNUSED:
        text += f" *Not used: {UNUSED[key.dotted]}.*"
    return f"{text} *(not in K2I)*" if key.native else text


if __name__ == "__main__":
    sys.stdout.write(markdown())

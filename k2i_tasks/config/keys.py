"""The settings as a list of keys, read off the model: for overrides, suggestions, the reference."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path as FilePath
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from k2i_tasks.config.fields import Section
from k2i_tasks.config.model import Config

Path = tuple[str, ...]
Kind = Literal["flag", "integer", "number", "text", "choice", "path", "secret", "list", "table"]

#: What a file may hold beside the sections.
TOP_LEVEL = ("format_version",)


@dataclass(frozen=True)
class Key:
    """One setting.

    Args:
        path: its sections and its name.
        field: pydantic's description of it, with default and bounds.
        kind: what it holds; a `list` has a `kind_of_item`.
        native: whether K2I does not know it.
        item: for an array of tables, the section of one entry.
    """

    path: Path
    field: FieldInfo
    kind: Kind
    native: bool
    optional: bool
    kind_of_item: Kind | None = None
    item: type[Section] | None = None

    @property
    def dotted(self) -> str:
        return ".".join(self.path)

    @property
    def default(self) -> Any:
        """Its default as the model holds it; `PydanticUndefined` for a required key."""
        given = self.field.default
        return FilePath(given) if self.kind == "path" and isinstance(given, str) else given

    @property
    def variable(self) -> str:
        """Name of the environment variable that overrides it."""
        return "K2I_" + "_".join(self.path).upper()


def _peeled(annotation: Any) -> tuple[Any, bool]:
    """The type below `Annotated` and `| None`, and whether None is allowed."""
    optional = False
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, UnionType):
            rest = [a for a in get_args(annotation) if a is not type(None)]
            optional = optional or len(rest) < len(get_args(annotation))
            annotation = rest[0]
        else:
            return annotation, optional


def _kind(annotation: Any) -> Kind:
    kinds: dict[Any, Kind] = {
        bool: "flag",
        int: "integer",
        float: "number",
        str: "text",
        SecretStr: "secret",
        tuple: "list",
        dict: "table",
        Literal: "choice",
    }
    return kinds.get(get_origin(annotation) or annotation, "path")


def literal_words(annotation: Any) -> tuple[str, ...]:
    """The words of a choice, none for another type."""
    base, _ = _peeled(annotation)
    return get_args(base) if get_origin(base) is Literal else ()


def section_of(annotation: Any) -> type[Section] | None:
    """The section that `annotation` stands for, if it does."""
    base, _ = _peeled(annotation)
    return base if isinstance(base, type) and issubclass(base, Section) else None


def _is_native(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, dict) and extra.get("native") is True


def keys_of(section: type[Section], at: Path = (), *, native: bool = False) -> Iterator[Key]:
    """All keys of `section` and of the sections in it, in the order of the model."""
    for name, field in section.model_fields.items():
        path = (*at, name)
        is_native = native or _is_native(field)
        inner = section_of(field.annotation)
        if inner is not None:
            yield from keys_of(inner, path, native=is_native)
            continue
        base, optional = _peeled(field.annotation)
        kind = _kind(base)
        item = item_kind = None
        if kind == "list":
            item = section_of(get_args(base)[0])
            item_kind = "table" if item else _kind(_peeled(get_args(base)[0])[0])
        yield Key(path, field, kind, is_native, optional, item_kind, item)


@cache
def all_keys() -> tuple[Key, ...]:
    """Every key of the configuration."""
    return tuple(keys_of(Config))


@cache
def by_path() -> Mapping[Path, Key]:
    """Every key by its path."""
    return {key.path: key for key in all_keys()}


@dataclass(frozen=True, slots=True)
class Unknown:
    """A key of a file that the model does not have, with the nearest one that it has."""

    path: Path
    nearest: Path | None
    native: bool

    @property
    def dotted(self) -> str:
        return ".".join(self.path)


def unknown_keys(
    raw: Mapping[str, Any], section: type[Section] = Config, at: Path = (), *, native: bool = False
) -> Iterator[Unknown]:
    """The keys in `raw` that `section` does not have, inner sections included."""
    for name, value in raw.items():
        path = (*at, name)
        if not at and name in TOP_LEVEL:
            continue
        field = section.model_fields.get(name)
        if field is None:
            yield _with_nearest(path, section, native=native)
            continue
        is_native = native or _is_native(field)
        inner = section_of(field.annotation)
        if inner is not None and isinstance(value, Mapping):
            yield from unknown_keys(value, inner, path, native=is_native)
        base, _ = _peeled(field.annotation)
        item = section_of(get_args(base)[0]) if get_origin(base) is tuple else None
        if item is not None and isinstance(value, list):
            for index, entry in enumerate(value):
                if isinstance(entry, Mapping):
                    yield from unknown_keys(entry, item, (*path, str(index)), native=is_native)


def _with_nearest(path: Path, section: type[Section], *, native: bool) -> Unknown:
    name = path[-1]
    here = dict(section.model_fields)
    if not path[:-1]:
        close = difflib.get_close_matches(name, [*here, *TOP_LEVEL], n=1, cutoff=0.6)
    else:
        close = difflib.get_close_matches(name, here, n=1, cutoff=0.6)
    if close:
        best = close[0]
        is_native = native or best in TOP_LEVEL or _is_native(here[best])
        return Unknown(path, (*path[:-1], best), is_native)
    elsewhere = {key.path[-1]: key for key in reversed(all_keys())}
    # Only near-certain ones: a key that stands in the wrong section.
    moved = difflib.get_close_matches(name, elsewhere, n=1, cutoff=0.9)
    if moved:
        key = elsewhere[moved[0]]
        return Unknown(path, key.path, key.native)
    return Unknown(path, None, native)

"""The kinds of value a setting can have, and the base of every section.

Numbers and booleans are strict: `"10"` or `true` is not a number. Text from the environment is
turned into a typed value before it gets here.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, NoReturn

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    Strict,
    StringConstraints,
)

from k2i_tasks.errors import ConfigError

MASK = "**********"
_USERINFO = re.compile(r"(?<=://).*@")
_QUERY_SECRET = re.compile(r"([?&][^=&]*(?:pass|pwd|secret|token|key|sig)[^=&]*=)[^&]*", re.I)
_NOT_YET = ("vault:", "aws-sm:", "prefect-block:")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
SECRET_BYTES_MAX = 65_536


class SecretReference(SecretStr):
    """A secret that is somewhere else: `env:NAME` or `file:/path`.

    Compares and hashes by where it points to. It has no value to read: `k2i_tasks.secrets` follows
    it to one.
    """

    def get_secret_value(self) -> NoReturn:
        raise ConfigError("A secret was read where only its reference is known.")

    @property
    def scheme(self) -> str:
        """`env` or `file`."""
        return self._secret_value.partition(":")[0]

    @property
    def location(self) -> str:
        """Name of the variable, or path of the file. Not secret."""
        return self._secret_value.partition(":")[2]

    def _display(self) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretReference) and self._secret_value == other._secret_value

    def __hash__(self) -> int:
        return hash(("reference", self._secret_value))

    def __len__(self) -> int:
        return len(self._secret_value)


def _secret(value: Any) -> SecretStr:
    """Reads the three ways of giving a secret. Messages never repeat what was given."""
    if isinstance(value, SecretStr):
        return value
    if isinstance(value, dict) and len(value) == 1 and isinstance(next(iter(value.values())), str):
        kind, text = next(iter(value.items()))
        if kind == "file" and text:
            return SecretReference(f"file:{text}")
        if kind == "value" and text:
            return _literal(text)
    if not isinstance(value, str) or not value:
        raise ValueError('must be a text that is not empty, or a table { file = "path" }')
    if value.startswith(_NOT_YET):
        scheme = value.partition(":")[0]
        raise ValueError(
            f"{scheme}: references are not supported by this version; use env:NAME or file:/path"
        )
    if value.startswith("env:"):
        if not _VARIABLE.fullmatch(value[4:]):
            raise ValueError("env: must be followed by the name of an environment variable")
        return SecretReference(value)
    if value.startswith("file:"):
        if not value[5:]:
            raise ValueError("file: must be followed by a path")
        return SecretReference(value)
    return _literal(value)


def _literal(text: str) -> SecretStr:
    if len(text.encode()) > SECRET_BYTES_MAX:
        raise ValueError(f"is longer than {SECRET_BYTES_MAX} bytes")
    return SecretStr(text)


class UrlText(str):
    """A URL that shows its user and password to nobody who only looks: `repr` masks them."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(masked_url(self))


def masked_url(url: str) -> str:
    """`url` with user, password and secrets of its query replaced by asterisks."""
    return _QUERY_SECRET.sub(rf"\g<1>{MASK}", _USERINFO.sub(f"{MASK}@", url))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`, an address or a name."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _upper(value: Any) -> Any:
    return value.strip().upper() if isinstance(value, str) else value


def _no_dots(name: str) -> str:
    if ".." in name or name == ".":
        raise ValueError("must not contain '..'")
    return name


def _path(value: Any) -> Any:
    if isinstance(value, str) and (not value.strip() or "\0" in value):
        raise ValueError("must be a path, not empty")
    return value


Integer = Annotated[int, Strict()]
Flag = Annotated[bool, Strict()]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
#: In the annotation of a `Literal`, these accept its words in any case.
AnyCaseLower = BeforeValidator(_lower)
AnyCaseUpper = BeforeValidator(_upper)
Text = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\x00-\x1f]+$")]
#: A table, a sink, a branch.
Name = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"),
    AfterValidator(_no_dots),
]
#: A name that becomes a folder, and one level of a dotted name.
PlainName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]{0,127}$")]
#: A branch of a table or catalog.
Branch = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]{0,127}$"),
    AfterValidator(_no_dots),
]
#: A column of a table, nested ones as `a.b`; any letters.
Column = Annotated[str, StringConstraints(pattern=r"^[^\s.\x00-\x1f][^\x00-\x1f]{0,254}$")]
Url = Annotated[
    str,
    StringConstraints(min_length=3, max_length=2048, pattern=r"^[A-Za-z][A-Za-z0-9+.-]*:\S+$"),
    AfterValidator(UrlText),
    PlainSerializer(masked_url, return_type=str),
]
#: An address that is reached over HTTP.
HttpUrl = Annotated[
    str,
    StringConstraints(max_length=2048, pattern=r"^[Hh][Tt][Tt][Pp][Ss]?://[^\s/]\S*$"),
    AfterValidator(UrlText),
    PlainSerializer(masked_url, return_type=str),
]
#: A database URL, which may hold a path with spaces.
SqlUrl = Annotated[
    str,
    StringConstraints(max_length=2048, pattern=r"^[A-Za-z][A-Za-z0-9+_]*:[^\x00-\x1f]+$"),
    AfterValidator(UrlText),
    PlainSerializer(masked_url, return_type=str),
]
FilePath = Annotated[Path, BeforeValidator(_path)]
Secret = Annotated[
    SecretStr,
    PlainValidator(_secret),
    PlainSerializer(lambda _: MASK, return_type=str, when_used="json"),
]


class Section(BaseModel):
    """One table of the configuration: frozen, no unknown keys, no values in error messages."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, validate_default=False
    )


def setting(description: str, default: Any = ..., *, native: bool = False, **bounds: Any) -> Any:
    """Declares one setting.

    Args:
        description: one sentence, as shown in the reference.
        default: its default; without one it is required.
        native: whether K2I does not know this key.
        bounds: pydantic's `ge`, `le`, `min_length`, `max_length`, `pattern`.
    """
    return Field(default, description=description, json_schema_extra={"native": native}, **bounds)

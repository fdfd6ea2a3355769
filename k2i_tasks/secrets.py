"""Secrets by reference, made plain once, where the real objects are built.

A secret of the configuration is a plain `SecretStr`, or a reference (`env:NAME`, `file:/path`,
`{ file = "/path" }`) that is followed here. Neither the value nor the text of a file ever is part
of an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from pydantic import SecretStr

from k2i_tasks import logs
from k2i_tasks.config import Config
from k2i_tasks.config.fields import SECRET_BYTES_MAX, SecretReference, Section
from k2i_tasks.errors import ConfigError


def resolve(secret: SecretStr, *, environ: Mapping[str, str] | None = None, field: str = "") -> str:
    """The secret itself. May block on a file; idempotent.

    Args:
        secret: plain, or a reference.
        environ: where `env:` looks; the process's environment when not given.
        field: key that holds it, as `section.key`, for messages.

    Raises:
        ConfigError: the variable is not set, the file cannot be read, or it holds nothing.
    """
    if not isinstance(secret, SecretReference):
        return secret.get_secret_value()
    where = f"{field}: " if field else ""
    if secret.scheme == "env":
        value = (os.environ if environ is None else environ).get(secret.location, "")
        if not value:
            raise ConfigError(
                f"{where}the environment variable {secret.location} is not set or empty.",
                field=field,
                remedy="Set it, or name another one.",
            )
        return value
    return _from_file(secret.location, where, field)


def _from_file(path: str, where: str, field: str) -> str:
    remedy = "Name a readable file that holds the secret alone."
    try:
        with open(path, "rb") as file:
            body = file.read(SECRET_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a path"
        raise ConfigError(
            f"{where}the secret file {path} cannot be read: {why}.", field=field, remedy=remedy
        ) from None
    if len(body) > SECRET_BYTES_MAX:
        raise ConfigError(
            f"{where}the secret file {path} is larger than {SECRET_BYTES_MAX} bytes.",
            field=field,
            remedy=remedy,
        )
    try:
        text = body.decode().strip()
    except UnicodeDecodeError:
        text = ""
    if not text:
        raise ConfigError(
            f"{where}the secret file {path} is empty or not UTF-8 text.", field=field, remedy=remedy
        ) from None
    return text


class Resolved(Mapping[str, str]):
    """The secrets of a configuration by the dotted name of their key; shows names only."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    def __getitem__(self, key: str) -> str:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Resolved({', '.join(self._values)})"


def resolve_all(config: Config, *, environ: Mapping[str, str] | None = None) -> Resolved:
    """Every secret of `config`, references followed. May block on files; idempotent.

    Args:
        config: the configuration.
        environ: where `env:` looks; the process's environment when not given.

    Returns:
        Key (`kafka.security.sasl_password`, `iceberg.rest.custom_headers.Authorization`) to plain
        text; a key that is not given is not there.

    Raises:
        ConfigError: a reference leads nowhere; `field` names its key.
    """
    return Resolved(
        {
            field: resolve(secret, environ=environ, field=field)
            for field, secret in _secrets_in(config, "")
        }
    )


def opened(config: Config) -> Resolved:
    """As `resolve_all`; from now on no log line shows one of them."""
    resolved = resolve_all(config)
    for value in resolved.values():
        logs.register_secret(value)
    return resolved


def _secrets_in(section: Section, at: str) -> Iterator[tuple[str, SecretStr]]:
    for name in type(section).model_fields:
        value, field = getattr(section, name), f"{at}{name}"
        if isinstance(value, Section):
            yield from _secrets_in(value, f"{field}.")
        elif isinstance(value, SecretStr):
            yield field, value
        elif isinstance(value, dict):
            for key, item in value.items():
                if isinstance(item, SecretStr):
                    yield f"{field}.{key}", item

"""Parameters of a flow: what Prefect stores in the clear, and shows to whoever may look."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from k2i_tasks.config.demo import dotted
from k2i_tasks.config.keys import by_path
from k2i_tasks.config.model_kafka import SECRETIVE
from k2i_tasks.errors import ConfigError

_REFERENCES = ("env:", "file:")
_PASSWORD_IN_URL = re.compile(r"://[^/@\s]*:[^/@\s]+@")
#: Tables whose values may be anything, a login too.
_OPEN_TABLES = ("iceberg.rest.custom_headers.", "query.tokens.")


def refuse_secrets(overrides: Mapping[str, Any]) -> None:
    """Refuses overrides that hold a secret, or look as if they did; references are fine.

    Args:
        overrides: `section.key` to value, or to a table of values.

    Raises:
        ConfigError: names the key.
    """
    known = by_path()
    for name, value in dotted(overrides):
        text = str(value)
        if text.startswith(_REFERENCES):
            continue
        key = known.get(tuple(name.split(".")))
        named = key.kind == "secret" if key is not None else bool(SECRETIVE.search(name))
        if named or name.startswith(_OPEN_TABLES) or _PASSWORD_IN_URL.search(text):
            raise ConfigError(
                f"{name} is a secret, or may hold one, and Prefect stores a flow's parameters in "
                "the clear.",
                field=name,
                remedy="Give a reference (env:NAME or file:/path), or set it in the file.",
            )

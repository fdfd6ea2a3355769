"""Names that become folders: checked before they reach a catalog or a store."""

from __future__ import annotations

import re

from k2i_tasks.errors import ConfigError
from k2i_tasks.iceberg.files import local_path

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,127}")


def identifier_of(database: str, table: str) -> tuple[str, ...]:
    """`("a", "b", "t")` of database `a.b` and table `t`, checked."""
    return checked_identifier((*database.split("."), table))


def checked_identifier(identifier: tuple[str, ...]) -> tuple[str, ...]:
    """The identifier itself.

    Raises:
        ConfigError: a part could name another folder than its own.
    """
    for part in identifier:
        if not _NAME.fullmatch(part):
            raise ConfigError(
                f"{part!r} cannot be the name of a table or namespace.",
                field="iceberg.table_name" if part == identifier[-1] else "iceberg.database_name",
                remedy="Use letters, digits, _ and -, at most 128.",
            )
    return identifier


def must_be_inside(location: str, warehouse: str) -> None:
    """Refuses a local table location outside the warehouse, whichever way it got there.

    Raises:
        ConfigError: it is outside.
    """
    path, root = local_path(location), local_path(warehouse)
    if path is None or root is None:
        return
    if not path.resolve().is_relative_to(root.resolve()):
        raise ConfigError(
            f"The table's location {location} is outside the warehouse {warehouse}.",
            field="iceberg.warehouse_path",
            remedy="Set iceberg.warehouse_path to the folder that holds the table.",
        )

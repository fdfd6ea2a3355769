"""What is done about records that are sound and that the table has no place for."""

from __future__ import annotations

from enum import StrEnum

#: Behind a column's name: the column beside it that takes, as JSON text, what it cannot hold.
VARIANT_SUFFIX = "__string"


class Policy(StrEnum):
    """Words of `schema_evolution.on_breaking_change`."""

    DEAD_LETTER = "dead-letter"
    PAUSE = "pause"
    FAIL = "fail"
    VARIANT_COLUMN = "variant-column"


class Conflicts:
    """The policy of each field. Decisions are for one run; used by the runner's thread.

    Args:
        policy: of all fields that nothing else is decided for.
        parent: name of the column that these fields are in; empty for the columns themselves.
    """

    def __init__(self, policy: Policy = Policy.DEAD_LETTER, parent: str = "") -> None:
        self._policy = policy
        self._parent = f"{parent}." if parent else ""
        self._decided: dict[str, Policy] = {}

    def within(self, column: str) -> Conflicts:
        """The same policies, later decisions included, as fields inside a column see them."""
        inner = Conflicts(self._policy, column)
        inner._decided = self._decided
        return inner

    def of(self, path: str) -> Policy:
        """The policy of a field, by its dotted path."""
        return self._decided.get(f"{self._parent}{path}", self._policy)

    def varies(self, path: str) -> bool:
        """Whether a value that the field cannot hold goes into the column beside it."""
        return self.of(path) is Policy.VARIANT_COLUMN

    def decide(self, path: str, policy: Policy) -> None:
        """From now on this is the field's policy."""
        self._decided[f"{self._parent}{path}"] = policy


def variant_name(name: str) -> str:
    """The column beside `name` for what it cannot hold."""
    return f"{name}{VARIANT_SUFFIX}"

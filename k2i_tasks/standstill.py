"""Which refused records pass as dead letters, and which a run stands still before, or ends with."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from k2i_tasks.clock import Clock
from k2i_tasks.codecs.conflicts import Conflicts, Policy
from k2i_tasks.errors import SchemaConflictError
from k2i_tasks.resumption import Order, take_order
from k2i_tasks.status import Cause, Standstill
from k2i_tasks.types import DeadLetter

log = logging.getLogger(__name__)

#: The time that `run.max_dead_letters_per_minute` speaks of.
WINDOW_SECONDS = 60.0
#: Time between two looks for an order to go on.
LOOK_SECONDS = 0.2


class Gate:
    """Lets dead letters pass, or not. Used by the runner's thread.

    Args:
        conflicts: what is done about each field's conflicts.
        letters_per_minute_max: 0 for no bound.
        orders: folder in which orders to go on come; None for none.
        clock: time.
    """

    def __init__(
        self,
        conflicts: Conflicts,
        clock: Clock,
        *,
        letters_per_minute_max: int = 0,
        orders: Path | None = None,
    ) -> None:
        self._conflicts = conflicts
        self._clock = clock
        self._per_minute_max = letters_per_minute_max
        self._orders = orders
        #: When so many letters passed, within the window.
        self._passed: deque[tuple[float, int]] = deque()
        self._next_look = 0.0

    def first_stop(self, letters: Sequence[DeadLetter]) -> tuple[DeadLetter, Cause] | None:
        """The first letter that may not pass, and why; None when all may.

        Args:
            letters: of one batch, in record order.
        """
        room = self._room()
        for count, letter in enumerate(letters):
            if room is not None and count >= room:
                return letter, Cause.DEAD_LETTERS
            policy = None if letter.conflict is None else self._conflicts.of(letter.conflict)
            if policy in (Policy.PAUSE, Policy.FAIL):
                return letter, Cause.CONFLICT
        return None

    def passed(self, count: int) -> None:
        """So many letters have passed."""
        if count and self._per_minute_max:
            self._passed.append((self._clock.monotonic(), count))

    def stand(self, letter: DeadLetter, cause: Cause) -> Standstill:
        """What the run waits for before this record.

        Raises:
            SchemaConflictError: the policy is not to wait but to end.
        """
        at = f"partition {letter.partition}, offset {letter.offset} of {letter.topic}"
        reason, path = letter.reason, letter.conflict or ""
        if cause is Cause.DEAD_LETTERS:
            most = self._per_minute_max
            reason = f"{most} dead letters within a minute are the limit; the next is: {reason}"
            path = ""
        elif self._conflicts.of(path) is Policy.FAIL:
            raise SchemaConflictError(
                f"The table has no place for the record at {at}: {reason}",
                remedy="Change the table, or set schema_evolution.on_breaking_change to pause, "
                "dead-letter or variant-column. What came before the record is committed.",
            )
        return Standstill(
            cause,
            letter.topic,
            letter.partition,
            letter.offset,
            path,
            reason,
            self._clock.unix(),
        )

    def may_go_on(self, stand: Standstill) -> bool:
        """Whether an operator has said to go on; follows what he has decided.

        Looks at most every `LOOK_SECONDS`.
        """
        now = self._clock.monotonic()
        if self._orders is None or now < self._next_look:
            return False
        self._next_look = now + LOOK_SECONDS
        order = take_order(self._orders)
        if order is None:
            return False
        if (order.topic, order.partition, order.offset) != (
            stand.topic,
            stand.partition,
            stand.offset,
        ):
            log.warning("an order to go on is not obeyed: it was for another record: %s", order)
            return False
        self._obey(order, stand)
        return True

    def _obey(self, order: Order, stand: Standstill) -> None:
        if stand.cause is Cause.DEAD_LETTERS:
            self._passed.clear()
        elif order.policy is not None:
            self._conflicts.decide(stand.field_path, Policy(order.policy))

    def _room(self) -> int | None:
        """Letters that may still pass in this minute; None for any number."""
        if not self._per_minute_max:
            return None
        now = self._clock.monotonic()
        while self._passed and now - self._passed[0][0] >= WINDOW_SECONDS:
            self._passed.popleft()
        return max(0, self._per_minute_max - sum(count for _, count in self._passed))

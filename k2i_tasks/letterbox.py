"""Where a run's dead letters go: to their table, to a topic, or to both."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence

from k2i_tasks.iceberg.catalog import load_table
from k2i_tasks.iceberg.committer import Committer
from k2i_tasks.iceberg.dead_letters import DeadLetterTable
from k2i_tasks.iceberg.ownership import must_own
from k2i_tasks.iceberg.staging import Staging
from k2i_tasks.iceberg.state import recorded
from k2i_tasks.kafka.letters import LetterTopic
from k2i_tasks.types import DeadLetter, Ranges, StagedFile

log = logging.getLogger(__name__)

#: Least time between two lines on letters of one kind.
SAMPLE_SECONDS = 60.0
#: Bytes of a value that a line shows, if any.
PAYLOAD_BYTES_SHOWN = 256


class Samples:
    """Tells the log of some letters: one of each kind at once, then one a minute.

    Args:
        show_payloads: whether the start of the value is shown.
        monotonic: seconds that only rise.
    """

    def __init__(
        self, *, show_payloads: bool, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._show_payloads = show_payloads
        self._monotonic = monotonic
        self._told_at: dict[tuple[str, str], float] = {}
        self._untold: Counter[tuple[str, str]] = Counter()
        self._batch = ""

    def tell(self, letters: Sequence[DeadLetter], batch_id: str) -> None:
        """Takes the letters of a batch; those of one that was the last, too, are known."""
        if batch_id == self._batch:
            return
        self._batch = batch_id
        kinds = {(letter.stage, letter.code): letter for letter in letters}
        self._untold.update((letter.stage, letter.code) for letter in letters)
        now = self._monotonic()
        for kind, letter in kinds.items():
            if now - self._told_at.get(kind, -SAMPLE_SECONDS) >= SAMPLE_SECONDS:
                self._told_at[kind] = now
                self._tell(letter, self._untold.pop(kind))

    def _tell(self, letter: DeadLetter, letters: int) -> None:
        extra: dict[str, object] = {
            "topic": letter.topic,
            "partition": letter.partition,
            "offset": letter.offset,
            "stage": letter.stage,
            "code": letter.code,
            "letters": letters,
        }
        if letter.schema_id is not None:
            extra["schema_id"] = letter.schema_id
        if self._show_payloads:
            start = (letter.value or b"")[:PAYLOAD_BYTES_SHOWN]
            extra["value"] = start.decode("utf-8", "backslashreplace")
        log.warning("%s is a dead letter: %s", letter.place, letter.reason, extra=extra)


class Letterbox:
    """Takes the letters of each batch: `stage` on the thread that flushes, `commit` on its own.

    Args:
        table: of letters; left-over files are committed to it even where `to_table` is false.
        topic: None to send none.
        to_table: whether letters go to the table.
        confirm: raises if the run has lost its claim; asked before letters are sent.
        show_payloads: whether the log may show the start of values.
    """

    def __init__(
        self,
        table: DeadLetterTable,
        topic: LetterTopic | None = None,
        *,
        to_table: bool = True,
        confirm: Callable[[], None] = lambda: None,
        show_payloads: bool = False,
    ) -> None:
        self._samples = Samples(show_payloads=show_payloads)
        self._table = table
        self._topic = topic
        self._to_table = to_table
        self._confirm = confirm
        #: The broker's id of the topic that is read; set by the claim.
        self.topic_id: str | None = None

    def stage(self, letters: Sequence[DeadLetter], batch_id: str) -> list[StagedFile]:
        """Sends the letters, and writes them as files for `commit`. May block.

        They are sent before the log knows the batch: after a crash it is read again, and those that
        were sent are not sent twice.
        """
        self._samples.tell(letters, batch_id)
        if self._topic is not None:
            self._topic.publish(letters, self.topic_id, self._confirm)
        return self._table.stage(letters, batch_id) if self._to_table else []

    def why_unusable(self, staged: Sequence[StagedFile]) -> str:
        """Why staged letters can no longer be committed; empty if they can. May block."""
        return self._table.why_unusable(staged)

    def commit(self, batch_id: str, ranges: Ranges, staged: Sequence[StagedFile]) -> None:
        """Adds staged letters to the table; see `DeadLetterTable.commit`."""
        self._table.commit(batch_id, ranges, staged)


def claim_of(committer: Committer, staging: Staging) -> Callable[[], None]:
    """What raises if the claim of `committer` is not the newest; for the thread that stages."""

    def confirm() -> None:
        table = load_table(staging.catalog, staging.identifier)
        state = recorded(table.metadata, committer.sink, committer.branch).newest
        must_own(committer.name, state, committer.me, committer.claimed)

    return confirm

"""Tells Kafka the committed offsets, beside the data path: only lag tools read them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from k2i_tasks.failpoints import hit
from k2i_tasks.types import Offsets

log = logging.getLogger(__name__)

#: Wait before offsets that Kafka did not take are offered again, in seconds.
RETRY_SECONDS = 5.0


class Acknowledger:
    """A thread that passes on the newest offsets; a slow or absent coordinator delays no commit.

    Args:
        publish: commits offsets in Kafka, synchronously; may block, raises when it cannot.
        published: called after each success.
    """

    def __init__(
        self, publish: Callable[[Offsets], None], published: Callable[[Offsets], None]
    ) -> None:
        self._publish = publish
        self._published = published
        self._wake = threading.Condition()
        self._newest: Offsets | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._main, name="k2i-acknowledge", daemon=True)
        self._thread.start()

    def submit(self, offsets: Offsets) -> None:
        """Passes `offsets` on when it is their turn, unless newer ones come first. Never blocks."""
        with self._wake:
            self._newest = {**(self._newest or {}), **offsets}
            self._wake.notify()

    def close(self, timeout_seconds: float) -> None:
        """Passes on what is left, within that time. Idempotent."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout_seconds)

    def _main(self) -> None:
        while (offsets := self._take()) is not None:
            try:
                hit("offsets.commit.before")
                self._publish(offsets)
                self._published(offsets)
            except Exception as error:
                log.warning("offsets were not committed to Kafka (the table has them): %s", error)
                self._put_back(offsets)

    def _take(self) -> Offsets | None:
        with self._wake:
            while self._newest is None and not self._closing:
                self._wake.wait()
            offsets, self._newest = self._newest, None
            return offsets

    def _put_back(self, offsets: Offsets) -> None:
        """Keeps what failed for another try a little later, under whatever came since."""
        with self._wake:
            if self._closing:
                return
            self._wake.wait(RETRY_SECONDS)
            self._newest = {**offsets, **(self._newest or {})}

"""A query that is closed at the moment at which its worker is done with it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from k2i_tasks.asking.evaluation import Evaluation
from k2i_tasks.asking.limits import Limits, Places, Turn


class Ending:
    """A worker, and the place for it, that says its last word while it is being killed."""

    def __init__(self) -> None:
        self.wire = self
        self.is_closed = threading.Event()
        self.is_given_back = threading.Event()
        self.killed = 0
        self._has_begun = False
        self._may_end = threading.Event()

    def take(self) -> tuple[Ending, bool]:
        return self, False

    def give_back(self, _worker: Ending) -> None:
        self.is_given_back.set()

    def send_json(self, *_frame: Any) -> None:
        pass

    def received(self, _waits: Callable[[], bool]) -> tuple[bytes, pa.Buffer]:
        if not self._has_begun:
            self._has_begun = True
            return b"S", pa.schema([]).serialize()
        assert self._may_end.wait(10)
        return b"E", pa.py_buffer(json.dumps({"grown": 0.0}).encode())

    def kill(self) -> None:
        self._may_end.set()
        # Until the other thread has decided.
        while not self.is_given_back.wait(0.01) and not self.is_closed.wait(0.01):
            pass
        self.killed += 1

    def close(self) -> None:
        self.is_closed.set()


def test_a_worker_that_is_killed_is_not_given_to_the_next_query() -> None:
    limits = Limits()
    places = Places(limits)
    places.take(lambda: True)
    worker = Ending()
    turn = Turn(places, 30.0, lambda: True)
    evaluation = Evaluation(worker, turn, dict, limits)  # type: ignore[arg-type]
    assert evaluation.begin("SELECT 1 AS one", 1) == pa.schema([])
    evaluation.close()
    assert worker.killed == 1
    assert worker.is_closed.is_set()
    assert not worker.is_given_back.is_set()
    assert places.taken == 0

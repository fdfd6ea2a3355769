"""The collector is relaxed for the length of a run, and as before after it."""

from __future__ import annotations

import gc

import pytest

from k2i_tasks.collector import THRESHOLDS, postponed, relaxed


def test_a_poll_of_messages_does_not_start_it() -> None:
    rounds: list[str] = []

    def noted(phase: str, _info: dict[str, int]) -> None:
        rounds.append(phase)

    gc.callbacks.append(noted)
    try:
        with relaxed():
            rounds.clear()
            kept = [[number] for number in range(20_000)]
            assert not rounds
        assert gc.get_threshold() != THRESHOLDS
        rounds.clear()
        kept = [[number] for number in range(20_000)]
        assert rounds, "without it the collector is started many times"
    finally:
        gc.callbacks.remove(noted)
    assert len(kept) == 20_000


def test_it_is_as_before_after_an_error() -> None:
    before = gc.get_threshold()

    def fails() -> None:
        with relaxed():
            assert gc.get_threshold() == THRESHOLDS
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        fails()
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def test_cycles_are_still_found_in_the_end() -> None:
    with relaxed():
        for _ in range(THRESHOLDS[0] + 1000):
            loop: list[object] = []
            loop.append(loop)
        assert gc.get_count()[0] < THRESHOLDS[0]


def test_what_is_made_meanwhile_is_not_looked_through_then_or_later() -> None:
    rounds: list[str] = []

    def noted(phase: str, _info: dict[str, int]) -> None:
        rounds.append(phase)

    gc.callbacks.append(noted)
    try:
        with postponed():
            kept = [[number] for number in range(20_000)]
            assert not rounds
        assert gc.isenabled()
        assert gc.get_freeze_count() >= len(kept)
    finally:
        gc.callbacks.remove(noted)
        gc.unfreeze()

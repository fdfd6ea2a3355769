"""What the log tells of dead letters: enough to notice and to look one up, never a flood."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest

from k2i_tasks.letterbox import PAYLOAD_BYTES_SHOWN, SAMPLE_SECONDS, Samples
from k2i_tasks.logs import JsonFormatter
from k2i_tasks.types import DeadLetter


def letter(offset: int, code: str = "json.syntax", value: bytes = b"4111 1111") -> DeadLetter:
    return DeadLetter("orders", 3, offset, -1, b"k", value, None, "decode", code, "no JSON", 7)


class Log:
    """The lines, as they are written."""

    def __init__(self, *, show_payloads: bool = False) -> None:
        self.now = 0.0
        self.stream = io.StringIO()
        self.samples = Samples(show_payloads=show_payloads, monotonic=lambda: self.now)
        handler = logging.StreamHandler(self.stream)
        handler.setFormatter(JsonFormatter(verbose=False))
        logging.getLogger("k2i_tasks.letterbox").addHandler(handler)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


@pytest.fixture(autouse=True)
def no_handlers_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("k2i_tasks.letterbox"), "handlers", [])


def test_one_letter_of_each_kind_is_told_at_once_and_then_one_a_minute_with_their_number() -> None:
    log = Log()
    log.samples.tell([letter(1), letter(2), letter(3, "json.empty")], "b-1")
    log.samples.tell([letter(1), letter(2), letter(3, "json.empty")], "b-1")  # tried again
    log.now = SAMPLE_SECONDS / 2
    log.samples.tell([letter(4)], "b-2")
    log.now = SAMPLE_SECONDS
    log.samples.tell([letter(5), letter(6)], "b-3")
    told = [(line["code"], line["offset"], line["letters"]) for line in log.lines()]
    assert told == [("json.syntax", 2, 2), ("json.empty", 3, 1), ("json.syntax", 6, 3)]
    first = log.lines()[0]
    assert first["message"] == "orders/3/2 is a dead letter: no JSON"
    assert (first["topic"], first["partition"], first["schema_id"]) == ("orders", 3, 7)


def test_values_are_told_only_if_allowed_and_never_whole() -> None:
    silent = Log()
    silent.samples.tell([letter(1)], "b-1")
    assert "4111" not in silent.stream.getvalue()
    open_ = Log(show_payloads=True)
    open_.samples.tell([letter(1, value=b"\xff" + b"x" * 10_000)], "b-1")
    assert open_.lines()[0]["value"] == "\\xff" + "x" * (PAYLOAD_BYTES_SHOWN - 1)

"""What reaches a log line, and what never does."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from k2i_tasks import logs
from k2i_tasks.errors import ServiceError

log = logging.getLogger("k2i_tasks.sample")


@pytest.fixture(autouse=True)
def untouched_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    levels = {name: logging.getLogger(name).level for name in logs.TAMED}
    monkeypatch.setattr(logs, "_secrets", ())
    yield
    for handler in [h for h in root.handlers if h.get_name() == "k2i"]:
        root.removeHandler(handler)
    root.setLevel(level)
    for name, old in levels.items():
        logging.getLogger(name).setLevel(old)
    logging.captureWarnings(False)


@pytest.fixture
def lines() -> io.StringIO:
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    return stream


def last(lines: io.StringIO) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(lines.getvalue().splitlines()[-1])
    return body


def test_a_json_line_is_one_object_with_the_extras_beside_the_message(lines: io.StringIO) -> None:
    log.info("flushed %d rows", 10, extra={"rows": 10, "table": "demo.orders"})
    body = last(lines)
    assert body["message"] == "flushed 10 rows"
    assert (body["level"], body["logger"]) == ("info", "k2i_tasks.sample")
    assert (body["rows"], body["table"]) == (10, "demo.orders")
    assert body["ts"].endswith("Z")


def test_a_message_with_line_breaks_stays_one_line(lines: io.StringIO) -> None:
    log.info("one\ntwo\r\nthree")
    assert len(lines.getvalue().splitlines()) == 1
    text = io.StringIO()
    logs.configure("info", "text", text)
    log.info("one\n12:00 ERROR forged: line \x1b[2J")
    assert len(text.getvalue().splitlines()) == 1
    assert "\x1b" not in text.getvalue()


def test_registered_secrets_are_masked_wherever_they_stand(lines: io.StringIO) -> None:
    logs.register_secret("hunter2/&x")
    log.error(
        "login hunter2/&x refused at http://h/?k=hunter2%2F%26x",
        extra={"detail": {"deep": ["x hunter2/&x"]}},
    )
    try:
        raise RuntimeError("cannot use hunter2/&x")
    except RuntimeError:
        log.exception("failed")
    assert "hunter2" not in lines.getvalue()
    assert last(lines)["error"] == "RuntimeError"


def test_a_secret_within_a_longer_one_leaves_no_remainder(lines: io.StringIO) -> None:
    logs.register_secret("abcd")
    logs.register_secret("abcd-efgh")
    log.info("value abcd-efgh")
    assert "efgh" not in lines.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "password=canary-77",
        "sasl.password: canary-77",
        "{'s3.secret-access-key': 'canary-77', 'a': 1}",
        '{"token": "canary-77 with blanks canary-77"}',
        "Authorization: Bearer canary-77",
        "https://user:canary-77@registry/subjects",
        "aws_access_key_id=canary-77",
        "postgresql://k2i:canary-77@db/cat",
    ],
)
def test_values_with_a_secret_name_in_front_are_masked(lines: io.StringIO, text: str) -> None:
    log.warning(text)
    assert "canary-77" not in lines.getvalue()
    assert "***" in lines.getvalue()


def test_extras_with_a_secret_name_are_masked_and_plain_ones_kept(lines: io.StringIO) -> None:
    log.info("x", extra={"sasl_password": "canary-77", "token_ttl_seconds": 30})
    assert last(lines)["sasl_password"] == "***"
    assert last(lines)["token_ttl_seconds"] == 30


def test_bytes_are_counted_and_never_shown(lines: io.StringIO) -> None:
    log.info("x", extra={"value": b"payload of a record"})
    assert last(lines)["value"] == "<19 bytes>"


def test_an_error_raised_on_purpose_shows_no_traceback_unless_verbose(lines: io.StringIO) -> None:
    def fail() -> None:
        try:
            raise ServiceError("The topic 'x' does not exist.")
        except ServiceError:
            log.exception("stopped")

    fail()
    assert "traceback" not in last(lines)
    assert last(lines)["error"] == "ServiceError"
    verbose = io.StringIO()
    logs.configure("info", "json", verbose, verbose=True)
    fail()
    assert "Traceback" in last(verbose)["traceback"]


def test_configuring_again_replaces_the_first_set_up(lines: io.StringIO) -> None:
    logs.configure("info", "json", lines)
    log.info("once")
    assert len(lines.getvalue().splitlines()) == 1


def test_a_library_that_writes_to_the_terminal_too_is_taken_off(tmp_path: Path) -> None:
    root = logging.getLogger()
    theirs = logging.StreamHandler(sys.stderr)
    file = logging.FileHandler(tmp_path / "other.log")
    root.addHandler(theirs)
    root.addHandler(file)
    try:
        logs.configure("info", "text")
        assert theirs not in root.handlers
        assert file in root.handlers
    finally:
        root.removeHandler(theirs)
        root.removeHandler(file)
        file.close()


def test_libraries_are_one_step_quieter(lines: io.StringIO) -> None:
    logging.getLogger("pyiceberg.io").info("chatter")
    logging.getLogger("pyiceberg.io").warning("heed this")
    assert "chatter" not in lines.getvalue()
    assert "heed this" in lines.getvalue()


def test_standard_error_is_looked_up_at_each_line(monkeypatch: pytest.MonkeyPatch) -> None:
    logs.configure("info", "text")
    later = io.StringIO()
    monkeypatch.setattr(sys, "stderr", later)
    log.info("hello")
    assert "hello" in later.getvalue()


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="loud"):
        logs.configure("loud")

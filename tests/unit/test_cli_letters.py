"""`k2i dead-letters`: what is counted and shown, and what a terminal is kept from."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from k2i_tasks import cli, cli_letter_views
from k2i_tasks.errors import ConfigError, ServiceError
from k2i_tasks.iceberg.committer import Committer
from k2i_tasks.iceberg.dead_letters import DeadLetterTable
from k2i_tasks.types import DeadLetter, OffsetRange, TopicPartition
from tests.iceberg_tables import NAME, catalog_of, config_at

BESIDE = (NAME[0], f"{NAME[1]}__dead_letters")


def letter(offset: int, code: str = "json.syntax", **more: Any) -> DeadLetter:
    told: dict[str, Any] = {"key": b"k", "value": b"{oh", "headers": None, **more}
    return DeadLetter(
        "events", offset % 2, offset, 1000, stage="decode", code=code, reason="no JSON", **told
    )


@pytest.fixture
def config(tmp_path: Path) -> Any:
    config = config_at(tmp_path)
    by = Committer(catalog_of(config), BESIDE, sink="main", branch="main", owner="a")
    table = DeadLetterTable(catalog_of(config), by, config)
    letters = [letter(number) for number in range(5)] + [letter(7, "json.empty", value=b"")]
    ranges = {TopicPartition("events", number): OffsetRange(0, 8) for number in (0, 1)}
    table.commit("a-1", ranges, table.stage(letters, "a-1"))
    return config


def listed(capsys: pytest.CaptureFixture[str], config: Any, **options: Any) -> str:
    asked = {"done": False, "form": "table", "kinds_max": 0, **options}
    cli_letter_views.list_letters(config, asked.pop("where", ""), **asked)
    return capsys.readouterr().out


def test_letters_are_counted_by_kind_those_with_most_first(
    config: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = json.loads(listed(capsys, config, form="json"))
    assert [(k["code"], k["partition"], k["letters"], k["replayed"]) for k in kinds] == [
        ("json.syntax", 0, 3, 0),
        ("json.syntax", 1, 2, 0),
        ("json.empty", 1, 1, 0),
    ]
    rows = list(csv.DictReader(io.StringIO(listed(capsys, config, form="csv"))))
    assert [row["letters"] for row in rows] == ["3", "2", "1"]
    assert "6 open letters of 3 kinds" in listed(capsys, config)
    text = listed(capsys, config, kinds_max=1)
    assert "2 kinds not shown" in text
    assert "json.empty" not in text
    few = json.loads(listed(capsys, config, form="json", where="code = 'json.empty'"))
    assert [kind["letters"] for kind in few] == [1]


def shown(value: bytes | None, bytes_max: int = 64, **more: Any) -> str:
    columns: dict[str, Any] = {
        "stage": "decode",
        "code": "c",
        "reason": "r",
        "failed_at": None,
        "key": None,
    }
    columns |= {"topic": "t", "partition": 0, "offset": 1, "timestamp": None, "headers": None}
    columns |= {"schema_id": None, "replay_id": None, "replayed_at": None, "value": value}
    console = Console(width=200, file=io.StringIO())
    console.print(cli_letter_views.letter_view({**columns, **more}, bytes_max))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_payloads_are_shown_as_text_or_bytes_cut_and_drive_no_terminal() -> None:
    assert "value      {oh" in shown(b"{oh")
    assert "∅" in shown(None)
    dump = shown(b"\x00\x01\xffABC")
    assert "00000000  00 01 ff 41 42 43" in dump
    assert "...ABC" in dump
    cut = shown(("ä" * 100).encode(), bytes_max=33)
    assert "200 B, the first 33 B" in cut
    assert "ä" * 16 in cut
    assert "\x1b" not in shown(b"\x1b[2J")
    assert "1b 5b 32 4a" in shown(b"\x1b[2J")
    assert "\x9b" not in shown("\x9b31m".encode())
    headers = shown(b"", headers=[{"key": "a\x1bb", "value": b"x"}, {"key": "n", "value": None}])
    assert "header a?b x" in headers
    assert "chosen by a replay that has not ended (r-1)" in shown(b"", replay_id="r-1")


def test_one_letter_is_shown_by_its_place_and_several_by_a_condition(
    config: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {"letters_max": 2, "bytes_max": 10, "as_json": True}
    cli_letter_views.show_letters(config, "events/1/7", "", **asked)
    (one,) = json.loads(capsys.readouterr().out)
    assert (one["code"], one["value"], one["key"]) == ("json.empty", "", "aw==")
    cli_letter_views.show_letters(config, None, "code = 'json.syntax'", **asked)
    assert len(json.loads(capsys.readouterr().out)) == 2
    with pytest.raises(ServiceError, match="no such letter"):
        cli_letter_views.show_letters(config, "events/0/99", "", **asked)
    with pytest.raises(ConfigError, match="TOPIC/PARTITION/OFFSET"):
        cli_letter_views.show_letters(config, "events", "", **asked)


def test_a_command_without_place_and_condition_or_with_both_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run(["dead-letters", "show"]) == 1
    assert cli.run(["dead-letters", "show", "t/0/1", "--where", "offset = 1"]) == 1
    assert "Either TOPIC/PARTITION/OFFSET or --where" in capsys.readouterr().err

"""`python -m k2i_tasks.wal`: a log is shown as it is, and left as it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from k2i_tasks.wal import WalKind, WriteAheadLog
from k2i_tasks.wal.__main__ import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with WriteAheadLog.open(tmp_path / "wal", segment_bytes_max=4096, segments_max=4) as log:
        log.checkpoint({"epoch": 3})
        log.append(WalKind.SEALED, {"batch": "[red]b1[/red]"})
    return tmp_path / "wal"


def test_json_lines_show_segment_and_entries(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder)]) == 0
    segment, *entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (segment["ending"], segment["live"], segment["why"]) == ("clean", True, "")
    assert [(e["lsn"], e["kind"], e["body"]) for e in entries] == [
        (1, "checkpoint", {"epoch": 3}),
        (2, "sealed", {"batch": "[red]b1[/red]"}),
    ]


def test_a_terminal_gets_a_table_and_payloads_are_no_markup(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    assert main([str(folder)]) == 0
    out = capsys.readouterr().out
    assert "[red]b1[/red]" in out
    assert "checkpoint" in out


def test_a_log_in_use_is_shown_without_its_lock(folder: Path) -> None:
    with WriteAheadLog.open(folder, segment_bytes_max=4096, segments_max=4):
        command = [sys.executable, "-m", "k2i_tasks.wal", str(folder)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, len(ran.stdout.splitlines())) == (0, 3)


def test_a_damaged_log_is_named_with_its_byte_and_nothing_is_changed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "00000002.log"
    data = bytearray(path.read_bytes())
    data[60] ^= 4
    path.write_bytes(data)
    (folder / "00000001.log.corrupt").write_bytes(b"")
    assert main(["--json", str(folder)]) == 5
    evidence, live = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (evidence["live"], evidence["ending"]) == (False, "corrupt")
    assert (live["live"], live["ending"], live["position"]) == (True, "corrupt", 40)
    assert path.read_bytes() == bytes(data)


def test_a_folder_that_is_not_there_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "none")]) == 5
    assert str(tmp_path / "none") in capsys.readouterr().err

"""The file by which a running flow is found."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

from k2i_tasks import discovery


def published(folder: Path) -> Path:
    return discovery.publish(folder, "grpc://127.0.0.1:1", "http://127.0.0.1:2", "secret")


def test_a_running_process_is_found_and_then_not_any_more(tmp_path: Path) -> None:
    path = published(tmp_path / "run")
    found = discovery.running(tmp_path / "run")
    assert found is not None
    assert (found.pid, found.token, found.flight) == (os.getpid(), "secret", "grpc://127.0.0.1:1")
    discovery.withdraw(path)
    assert discovery.running(tmp_path / "run") is None


def test_its_user_alone_can_read_it_whatever_stood_there_before(tmp_path: Path) -> None:
    (tmp_path / discovery.NAME).write_text("{}")
    (tmp_path / discovery.NAME).chmod(0o666)
    assert stat.S_IMODE(published(tmp_path).stat().st_mode) == 0o600


def test_a_file_of_a_killed_process_is_not_believed(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from k2i_tasks import discovery;"
        "discovery.publish(Path(sys.argv[1]), 'grpc://a:1', 'http://a:2', 't');"
        "os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert ended.returncode == -9
    assert (tmp_path / discovery.NAME).exists()
    assert discovery.running(tmp_path) is None


def test_another_process_with_the_same_number_is_not_taken_for_it(tmp_path: Path) -> None:
    path = published(tmp_path)
    held = json.loads(path.read_text())
    path.write_text(json.dumps({**held, "born": "1"}))
    assert discovery.running(tmp_path) is None


def test_a_file_of_another_process_is_left_alone(tmp_path: Path) -> None:
    path = published(tmp_path)
    held = json.loads(path.read_text())
    path.write_text(json.dumps({**held, "pid": os.getppid()}))
    discovery.withdraw(path)
    assert path.exists()


def test_a_damaged_file_is_as_none(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", '{"pid": 1}', '{"pid": "x", "born": 1}'):
        (tmp_path / discovery.NAME).write_text(text)
        assert discovery.running(tmp_path) is None
    pid = {"pid": 10**30, "born": "", "flight": "", "http": "", "token": ""}
    (tmp_path / discovery.NAME).write_text(json.dumps(pid))
    assert discovery.running(tmp_path) is None
    assert discovery.running(tmp_path / "none") is None

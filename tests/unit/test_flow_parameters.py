"""What a flow's parameters may hold, and how the script takes its command line."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows import ingest as script
from k2i_tasks.config import refuse_secrets
from k2i_tasks.errors import ConfigError
from tests.integration.test_demo import Terminal

ROOT = Path(__file__).resolve().parents[2]
CANARY = "canary-77"


@pytest.mark.parametrize(
    "overrides",
    [
        {"kafka.security.sasl_password": CANARY},
        {"kafka": {"security": {"sasl_password": CANARY}}},
        {"iceberg.rest.custom_headers.Authorization": f"Bearer {CANARY}"},
        {"iceberg.rest.custom_headers": {"X-Anything": CANARY}},
        {"iceberg.sql_catalog.url": f"postgresql://user:{CANARY}@host/db"},
        {"kafka.properties": {"ssl.key.password": CANARY}},
    ],
)
def test_an_override_that_holds_a_secret_is_refused_and_not_repeated(
    overrides: dict[str, Any],
) -> None:
    with pytest.raises(ConfigError, match="in the clear") as caught:
        refuse_secrets(overrides)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        {"kafka.topic": "orders", "buffer.max_size_mb": 64},
        {"kafka.security.sasl_password": "env:KAFKA_PASSWORD"},
        {"iceberg.sql_catalog.url": "sqlite:////var/lib/k2i/catalog.db"},
        {"iceberg.rest_uri": "https://catalog.example.com:8181/"},
    ],
)
def test_other_overrides_and_references_pass(overrides: dict[str, Any]) -> None:
    refuse_secrets(overrides)


@pytest.mark.parametrize("words", [["--nope"], ["--max-messages", "0"], ["--duration", "x"]])
def test_a_wrong_command_line_of_the_script_ends_with_1(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        script.arguments(words)
    assert ended.value.code == 1
    assert words[0] in capsys.readouterr().err


def printed_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The query command that a run with this command line is given to show."""
    seen: list[Any] = []

    def record(_config: Any, options: Any, _factory: Any) -> int:
        seen.append(options.query_command)
        return 0

    monkeypatch.setattr(script, "run_ingest", record)
    assert script.main([*words, "--no-prefect"]) == 0
    return shlex.split(seen[0])


def test_the_query_command_survives_a_shell_and_says_which_table_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a folder"
    change = "iceberg.table_name=other"
    command = printed_command(["--data-dir", str(folder), "--set", change], monkeypatch)
    where = ["query", "--data-dir", str(folder), "--set", change]
    assert command[-6:] == [*where, "SELECT count(*) FROM demo.other"]


@pytest.mark.parametrize("table", ["my-orders", "select", "2026"])
def test_a_table_whose_name_is_no_plain_word_is_quoted_in_the_query(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--data-dir", str(tmp_path), "--set", f"iceberg.table_name={table}"]
    assert printed_command(words, monkeypatch)[-1] == f'SELECT count(*) FROM "{table}"'


def test_a_demos_table_is_found_under_the_same_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from k2i_tasks.cli_options import Shared, table_config

    monkeypatch.setenv("K2I_ICEBERG_DATABASE_NAME", "mine")
    found = table_config(Shared(), tmp_path, {"iceberg.table_name": "other"})
    assert (found.iceberg.database_name, found.iceberg.table_name) == ("mine", "other")
    assert found.iceberg.warehouse_path == f"file://{tmp_path}/warehouse"


def on_terminal(*words: str) -> Terminal:
    environ = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "200", "LINES": "40"}
    return Terminal([sys.executable, "flows/ingest.py", "--no-prefect", *words], environ)


@pytest.mark.parametrize("folder", ["/proc/nowhere", "{file}", "{file}/below"])
def test_a_folder_that_cannot_be_made_is_one_message_on_a_terminal_too(
    folder: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    place = folder.format(file=tmp_path / "file")
    demo = on_terminal("--data-dir", place)
    try:
        while demo.code is None:
            demo.read(0.5)
    finally:
        demo.close()
    assert demo.code == 5, demo.text
    assert "Traceback" not in demo.text
    assert place in demo.text
    assert "may write to" in demo.text


def test_ctrl_c_before_anything_was_begun_ends_with_130_and_without_a_traceback() -> None:
    code = "import runpy, sys; sys.argv = ['flows/ingest.py', '--help']"
    # The script's first import of its own is where the signal comes.
    hook = (
        "import os, signal, builtins; real = builtins.__import__\n"
        "def imported(name, *more):\n"
        "    if name.startswith('k2i_tasks'):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    return real(name, *more)\n"
        "builtins.__import__ = imported\n"
    )
    run = "runpy.run_path('flows/ingest.py', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{hook}\n{run}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "")

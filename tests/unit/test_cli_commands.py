"""Exit codes, messages and start-up time of the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from k2i_tasks import __version__, cli
from k2i_tasks.errors import Component, ConfigError, K2IError, ServiceError
from k2i_tasks.serving.http import Binding, HttpServer
from k2i_tasks.serving.pages import health_server
from k2i_tasks.status import Health, RunState, Status
from tests.unit.samples import sample_status, troubled_status

GOOD = """
[kafka]
bootstrap_servers = ["127.0.0.1:9"]
topic = "orders"
consumer_group = "k2i"

[iceberg]
catalog_type = "sql"
warehouse_path = "file:///tmp/nowhere"
database_name = "demo"
table_name = "orders"

[iceberg.sql_catalog]
type = "sqlite"
url = "sqlite:////tmp/nowhere/catalog.db"
"""


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(GOOD)
    return path


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("K2I_")]:
        monkeypatch.delenv(name)


def serve(status: Status) -> HttpServer:
    binding = Binding("127.0.0.1", 0, "monitoring.health_port", "monitoring.health_host")
    return health_server(binding, lambda: status)


@pytest.fixture
def healthy() -> Iterator[HttpServer]:
    with serve(sample_status()) as server:
        yield server


def child(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "k2i_tasks.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **more)


def test_help_names_the_commands_and_the_version_is_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("ingest", "validate", "status", "query", "completions"))
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"k2i {__version__}\n"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, k2i_tasks.cli\n"
        "assert k2i_tasks.cli.run(['--help']) == 0\n"
        "heavy = {'polars', 'pyarrow', 'pyiceberg', 'prefect', 'confluent_kafka', 'pydantic'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    "words",
    [
        ["maintenance"],
        ["ingest", "--duration", "0"],
        ["ingest", "--max-messages", "0"],
        ["ingest", "--max-messages", "many"],
        ["query"],
        ["query", "SELECT 1", "--format", "xml"],
        ["validate", "--nope"],
        [],
    ],
)
def test_a_wrong_command_line_is_a_configuration_error(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(words) == 1
    captured = capsys.readouterr()
    assert "k2i" in captured.out + captured.err
    assert "Traceback" not in captured.err


def test_a_good_file_is_valid_and_options_may_stand_anywhere(
    good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (
        ["validate", "--config", str(good)],
        ["-c", str(good), "validate"],
        ["-v", "validate", "-c", str(good), "-vv"],
    ):
        assert cli.run(words) == 0
        assert "the configuration is valid" in capsys.readouterr().out


def test_config_toml_in_the_folder_is_the_default(
    good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(good.parent)
    assert cli.run(["validate"]) == 0


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[kafka\n", "line 1"),
        (GOOD.replace('topic = "orders"', ""), "kafka.topic"),
        (GOOD.replace('"orders"\nconsumer', "5\nconsumer"), "kafka.topic"),
        (GOOD + "\n[buffer]\nmax_size_mb = 0\n", "buffer.max_size_mb"),
        (GOOD.replace('catalog_type = "sql"', 'catalog_type = "csv"'), "iceberg.catalog_type"),
    ],
)
def test_a_bad_file_is_exit_1_and_the_name_of_the_field(
    text: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    assert cli.run(["validate", "--config", str(path)]) == 1
    shown = capsys.readouterr().err
    assert named in shown
    assert "Traceback" not in shown


def test_a_missing_file_is_exit_1_with_the_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["validate", "-c", "/nonexistent/x.toml"]) == 1
    shown = capsys.readouterr().err
    assert "/nonexistent/x.toml" in shown
    assert "--config" in shown


@pytest.mark.parametrize(
    ("component", "code"),
    [
        (Component.CONFIG, 1),
        (Component.KAFKA, 2),
        (Component.ICEBERG, 3),
        (Component.STORAGE, 4),
        (Component.WAL, 5),
        (Component.HEALTH, 6),
        (Component.RUNTIME, 10),
    ],
)
def test_the_exit_code_is_that_of_the_component(
    component: Component,
    code: int,
    good: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any) -> None:
        raise ServiceError("It broke at a:1.", component=component, remedy="Mend it.")

    monkeypatch.setattr(cli, "loaded", fail)
    assert cli.run(["validate", "-c", str(good)]) == code
    assert capsys.readouterr().err == "k2i: It broke at a:1.\n     Mend it.\n"


def test_tracebacks_are_shown_with_v_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise ConfigError("Wrong.", field="kafka.topic")

    monkeypatch.setattr(cli, "loaded", fail)
    assert cli.run(["validate"]) == 1
    quiet = capsys.readouterr().err
    assert quiet == "k2i: Wrong.\n     Setting: kafka.topic\n"
    assert cli.run(["validate", "-v"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_what_nobody_expected_is_exit_10_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("x\x1b[2J\ny password=canary-77")

    monkeypatch.setattr(cli, "loaded", fail)
    assert cli.run(["validate"]) == 10
    shown = capsys.readouterr().err
    assert "KeyError" in shown
    assert len(shown.splitlines()) == 2
    assert "canary-77" not in shown
    assert "\x1b" not in shown


def test_an_interrupt_is_exit_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "loaded", interrupt)
    assert cli.run(["validate"]) == 130


def test_ingest_passes_its_options_on(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import k2i_tasks.ingest as host

    seen: list[Any] = []

    def record(config: Any, options: Any, factory: Any) -> int:
        seen.extend([config, options, factory])
        return 5

    monkeypatch.setattr(host, "run_ingest", record)
    words = [
        "-v", "ingest", "-c", str(good), "--topic", "t2", "--bootstrap-servers", "a:1,b:2",
        "--consumer-group", "g2", "--no-prefect", "--duration", "1.5", "--max-messages", "7",
        "--plain",
    ]  # fmt: skip
    assert cli.run(words) == 5
    config, options, _ = seen
    assert config.kafka.topic == "t2"
    assert config.kafka.bootstrap_servers == ("a:1", "b:2")
    assert config.kafka.consumer_group == "g2"
    assert config.prefect.enabled is False
    assert (options.duration_seconds, options.max_messages) == (1.5, 7)
    assert (options.plain, options.verbose, options.demo) == (True, True, False)
    command = f'k2i query --config {good} "SELECT count(*) FROM demo.orders"'
    assert options.query_command.endswith(command)
    assert shutil.which(options.query_command.split()[0]) is not None


def test_connect_prints_a_line_for_each_check_and_the_code_of_the_first_failure(
    good: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    problems: list[tuple[str, str | None]] = [
        ("Kafka topic orders", None),
        ("rest catalog", "No answer at http://h:1. Start it."),
        ("object store", "Read-only."),
    ]
    wiring = SimpleNamespace(check_connections=lambda _config: problems)
    monkeypatch.setitem(sys.modules, "k2i_tasks.wiring_table", wiring)
    assert cli.run(["validate", "--connect", "-c", str(good)]) == 3
    shown = capsys.readouterr().out
    assert "ok      Kafka topic orders" in shown
    assert "failed  rest catalog: No answer at http://h:1. Start it." in shown
    problems[1:] = []
    assert cli.run(["validate", "--connect", "-c", str(good)]) == 0


def test_status_of_a_healthy_run_shows_components_and_figures(
    healthy: HttpServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["status", "--url", healthy.url]) == 0
    shown = capsys.readouterr().out
    for part in ("healthy", "orders → demo.orders", "txlog", "1,204,331", "31.0 MiB of 64.0 MiB"):
        assert part in shown
    assert cli.run(["status", "--url", f"{healthy.url}/health", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "healthy"


def test_status_finds_the_port_in_the_configuration(healthy: HttpServer, good: Path) -> None:
    good.write_text(f"{GOOD}\n[monitoring]\nhealth_port = {healthy.port}\n")
    assert cli.run(["status", "--config", str(good)]) == 0


def test_status_of_a_degraded_run_is_0_and_of_an_unhealthy_one_6(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serve(troubled_status()) as server:
        assert cli.run(["status", "--url", server.url]) == 0
        assert "no answer for 12 s" in capsys.readouterr().out
    with serve(sample_status(state=RunState.FAILED)) as server:
        assert cli.run(["status", "--url", server.url]) == 6
        assert Health.UNHEALTHY.value in capsys.readouterr().out


def test_status_is_6_when_nothing_answers(capsys: pytest.CaptureFixture[str]) -> None:
    with serve(sample_status()) as server:
        url = server.url
    assert cli.run(["status", "--url", url]) == 6
    assert "k2i ingest" in capsys.readouterr().err


def test_status_is_6_when_something_else_answers(capsys: pytest.CaptureFixture[str]) -> None:
    from k2i_tasks.serving.connection import Page

    binding = Binding("127.0.0.1", 0, "x", "y")
    for page in (Page.of_text("hello"), Page.of_json([1]), Page.of_json({"components": 5})):
        with HttpServer("other", binding, {"/health": lambda page=page: page}) as server:  # type: ignore[misc]
            assert cli.run(["status", "--url", server.url]) == 6
            assert "not with a health report" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["localhost:8080", "file:///etc/passwd", "http://", "ftp://x"])
def test_status_asks_http_addresses_only(url: str) -> None:
    assert cli.run(["status", "--url", url]) == 1


def test_status_understands_the_report_of_k2i_itself(capsys: pytest.CaptureFixture[str]) -> None:
    from k2i_tasks.serving.connection import Page

    body = {"status": "degraded", "components": {"kafka": {"status": "degraded", "message": "m"}}}
    binding = Binding("127.0.0.1", 0, "x", "y")
    with HttpServer("k2i", binding, {"/health": lambda: Page.of_json(body)}) as server:
        assert cli.run(["status", "--url", server.url]) == 0
    assert "degraded" in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "power-shell"])
def test_completions_are_printed_for_each_shell(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["completions", shell]) == 0
    assert "_K2I_COMPLETE" in capsys.readouterr().out


def test_the_shell_gets_its_completions() -> None:
    asked = {"_K2I_COMPLETE": "complete_bash", "COMP_WORDS": "k2i in", "COMP_CWORD": "1"}
    assert child(env=os.environ | asked).stdout.split() == ["ingest"]


def test_the_process_ends_with_the_code(good: Path) -> None:
    ended = child("validate", "-c", str(good.with_name("missing.toml")))
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert "missing.toml" in ended.stderr


def test_errors_on_purpose_all_have_an_exit_code() -> None:
    assert K2IError("x").exit_code == 10

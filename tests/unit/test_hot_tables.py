"""Which tables of a process can be queried, and what a run that is not queried does without."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from k2i_tasks.calls import InlineTracker
from k2i_tasks.errors import Component, TransientError
from k2i_tasks.hot_tables import HotTables
from k2i_tasks.iceberg.heads import Heads
from k2i_tasks.metrics import Metrics
from k2i_tasks.types import TopicPartition
from k2i_tasks.wiring import build_runner
from tests.iceberg_tables import config_at

ROOT = Path(__file__).resolve().parents[2]
P0 = TopicPartition("events", 0)


def workers() -> int:
    return sum(thread.name == "k2i-hot" for thread in threading.enumerate())


def test_a_table_keeps_its_view_while_its_runs_follow_one_another(tmp_path: Path) -> None:
    hot = HotTables()
    config = config_at(tmp_path)
    first = hot.buffer(config, {})
    [(name, view)] = hot.views().items()
    assert name == view.name == "db.events"
    assert hot.buffer(config, {}) is first
    assert hot.views()[name] is view
    hot.buffer(config_at(tmp_path, table_name="others"), {})
    assert set(hot.views()) == {"db.events", "db.others"}
    hot.forget("db.events")
    hot.forget("db.events")
    assert set(hot.views()) == {"db.others"}
    assert hot.buffer(config, {}) is not first
    hot.close()
    assert hot.views() == {}


def test_the_index_works_from_the_first_share_until_the_run_ends(tmp_path: Path) -> None:
    hot = HotTables()
    buffer = hot.buffer(config_at(tmp_path), {})
    before = workers()
    buffer.begin({P0: 0})
    buffer.begin({P0: 5})
    assert workers() == before + 1
    buffer.close()
    assert workers() == before
    buffer.begin({P0: 9})
    hot.close()
    assert workers() == before


def test_a_run_has_the_buffer_of_its_table_only_where_it_is_queried(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    log = config.transaction_log.model_copy(update={"log_dir": tmp_path / "wal"})
    config = config.model_copy(update={"transaction_log": log})
    hot = HotTables()
    for tables in (hot, None):
        runner = build_runner(
            config,
            tracker_factory=lambda _status, _drain: InlineTracker(),
            metrics=Metrics(),
            hot=tables,
        )
        assert (runner.buffer is hot.buffer(config, {})) == (tables is hot)
        runner._close()


def test_what_runs_a_table_loads_no_polars() -> None:
    code = "import sys, k2i_tasks.wiring_fleet; sys.exit('polars' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_catalog_that_does_not_answer_holds_up_nobody_at_the_end() -> None:
    asked, answers = threading.Event(), threading.Event()

    def connect() -> Any:
        asked.set()
        answers.wait(30)
        raise TransientError("The catalog is away.", component=Component.ICEBERG)

    heads = Heads(connect, ("db", "events"), "k2i", "main")
    said: list[str] = []

    def ask() -> None:
        try:
            heads.load()
        except TransientError as error:
            said.append(str(error))

    asking = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
    for thread in asking:
        thread.start()
    assert asked.wait(10)
    began = time.monotonic()
    heads.close()
    assert time.monotonic() - began < 5
    answers.set()
    for thread in asking:
        thread.join(10)
    # Only the first was at the catalog; the others do not go there any more.
    assert len(said) == 3
    assert sum("away" in one for one in said) == 1

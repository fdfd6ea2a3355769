"""The benchmarks: how figures are made of what was seen, and small whole runs without services."""

from __future__ import annotations

import json
import os
import threading
from argparse import Namespace
from array import array
from pathlib import Path
from typing import Any

import pytest

from benchmarks import commits, latency, report
from benchmarks.freshness import Stamps, jobs_in
from benchmarks.start import shares_of
from k2i_tasks.metrics import Metrics
from k2i_tasks.types import Job


def test_percentiles_are_values_that_were_seen() -> None:
    values = [float(number) for number in range(1, 101)]
    assert report.percentile(values, 50) == 50
    assert report.percentile(values, 99) == 99
    assert report.percentile(reversed(values), 100) == 100
    assert report.percentile([7.0], 1) == 7
    with pytest.raises(ValueError, match="nothing"):
        report.percentile([], 50)


def test_a_table_that_differs_fails_the_benchmark(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "figures.json"
    assert report.finished(report.machine(), written, equal=False) == 1
    assert "not equal" in capsys.readouterr().err
    assert json.loads(written.read_text(encoding="utf-8"))["cpus"] == os.cpu_count()


def test_the_newest_row_is_that_of_the_last_offset_of_any_partition() -> None:
    stamps = Stamps([array("q", [10, 40]), array("q", [20, 30, 50])])
    assert stamps.newest({}) is None
    assert stamps.newest({0: 0, 1: 1}) == 20
    assert stamps.newest({0: 2, 1: 2}) == 40
    assert stamps.ends == {0: 2, 1: 3}


def test_jobs_are_counted_as_the_program_tells_them() -> None:
    metrics = Metrics()
    for failed in (False, False, True):
        metrics.on_upkeep(Job.EXPIRE, 0.1, {}, failed=failed)
    found = jobs_in(metrics.exposition().decode())
    assert found == {"expire-snapshots ok": 2, "expire-snapshots failed": 1}


def test_imports_are_summed_up_by_package() -> None:
    lines = [
        "import time: self [us] | cumulative | imported package",
        "import time:      2000 |       2000 |   pyarrow.lib",
        "import time:      1000 |       3000 | pyarrow",
        "a line of the log",
        "import time:       500 |        500 | site",
    ]
    shares = [(one.package, one.seconds, one.modules) for one in shares_of(lines)]
    assert shares == [("pyarrow", 0.003, 2), ("site", 0.0005, 1)]


def test_a_table_is_looked_at_at_the_milestones_and_at_the_end() -> None:
    assert commits.looks_at(12) == {10, 12}
    assert {10, 100, 1_000, 3_210} <= commits.looks_at(3_210)
    assert 5_000 not in commits.looks_at(3_210)


def test_only_what_the_thread_itself_waits_for_is_counted(tmp_path: Path) -> None:
    plain = os.fsync

    def sync() -> None:
        with (tmp_path / threading.current_thread().name).open("wb") as file:
            os.fsync(file.fileno())

    with latency.waits() as waited:
        other = threading.Thread(target=sync)
        other.start()
        other.join()
        assert waited.disk == 0
        sync()
        assert waited.disk > 0
    assert os.fsync is plain


@pytest.mark.timeout(120)
def test_commits_are_measured_with_upkeep_and_without(tmp_path: Path) -> None:
    written, plot = tmp_path / "figures.json", tmp_path / "plot.svg"
    chosen = Namespace(
        commits=14,
        without=3,
        rows=20,
        every=60.0,
        pace=0.001,
        minutes=5.0,
        catalog="sql",
        json=written,
        plot=plot,
    )
    assert commits.run(chosen) == 0
    tables: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))["tables"]
    assert [look["commits"] for look in tables["with"]["looks"]] == [10, 14]
    assert tables["without"]["looks"][-1]["data_files"] == 3
    assert tables["with"]["jobs"]
    assert not tables["without"]["jobs"]
    assert plot.stat().st_size > 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("buckets", [1, 3])
def test_the_parts_of_a_latency_are_all_of_it(tmp_path: Path, buckets: int) -> None:
    written = tmp_path / "figures.json"
    chosen = Namespace(
        rows=[50], repetitions=3, rows_max=1_000, buckets=buckets, catalog="sql", json=written
    )
    assert latency.run(chosen) == 0
    (size,) = json.loads(written.read_text(encoding="utf-8"))["sizes"]
    assert (size["rows"], size["repetitions"]) == (50, 3)
    assert set(size["p50_parts"]) == set(latency.PARTS)
    assert size["p50_parts"]["sync_files"] > 0

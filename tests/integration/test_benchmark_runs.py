"""Benchmarks that need a broker, whole, at the smallest size: each compares what it has written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SCALING = "scaling --curves table-partitions,tables --quick --megabytes 3"
MEMORY = "memory --messages 3000 --partitions 3 --buckets 3"
LIMITS = "limits --messages 3000 --runs 1"
FORMATS = "formats --messages 3000 --runs 1"
TIMELINE = "timeline --messages 3000"


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_foreign_documents_are_rows_or_dead_letters(kafka_bootstrap: str, tmp_path: Path) -> None:
    lines = ['{"a":1,"b":{"c":"x"}}', '{"a":"two"}', "[1]", '{"d":[{"e":null}]}', "{"]
    examples = [{"name": "some kind", "examples": [{"a": 1}, {"a": 0.5}]}]
    file, other = tmp_path / "lines.jsonl", tmp_path / "examples.json"
    file.write_text("\n".join(lines), encoding="utf-8")
    other.write_text(json.dumps(examples), encoding="utf-8")
    written = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks", "corpus", str(file), str(other)]
    done = subprocess.run(
        [*command, "--json", str(written)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    runs = json.loads(written.read_text(encoding="utf-8"))["runs"]
    assert len(runs) == 4
    assert {(one["rows"], one["dead_letters"]) for one in runs} == {(5, 2)}
    assert all(one["readers_agree"] and one["complete"] for one in runs)


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("words", [SCALING, TIMELINE, LIMITS, FORMATS, MEMORY])
def test_a_benchmark_runs_and_finds_its_tables_equal(
    words: str, kafka_bootstrap: str, tmp_path: Path
) -> None:
    """The services are the benchmark's own; asking for a broker skips where none can run."""
    written, drawn = tmp_path / "figures.json", tmp_path / "figure.svg"
    files = ["--json", str(written), "--figure", str(drawn)]
    command = [sys.executable, "-m", "benchmarks", *words.split(), *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(written.read_text(encoding="utf-8"))["cpus"]
    assert drawn.stat().st_size > 0

"""The verdict follows from the figures, and the report can be read by people and programs."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from rich.console import Console

from k2i_tasks.cli_verify import FINDINGS_SHOWN, PARTITIONS_SHOWN, report_view
from k2i_tasks.config import Config
from k2i_tasks.errors import ConfigError
from k2i_tasks.iceberg.fixed import SinkRecord
from k2i_tasks.iceberg.state import SinkState
from k2i_tasks.tracking.verify_report import verify_markdown
from k2i_tasks.verification.report import Finding, Kind, PartitionReport, Verdict, VerifyReport
from k2i_tasks.verification.subject import must_be_told_apart

CLEAN = VerifyReport(
    table="shop.orders",
    topic="orders",
    sink="main",
    branch="main",
    snapshot_id=7,
    committed_at_ms=1_700_000_000_000,
    values="sampled",
    sample_rows=100,
    seed=42,
    partitions=(PartitionReport(0, 0, 10, rows=9, explained=1, compared=9),),
)


def with_figures(**figures: int) -> VerifyReport:
    return replace(CLEAN, partitions=(replace(CLEAN.partitions[0], **figures),))


@pytest.mark.parametrize(
    ("report", "verdict", "code"),
    [
        (CLEAN, Verdict.PROVEN, 0),
        (with_figures(accepted=3, vanished=2), Verdict.PROVEN, 0),
        (with_figures(lost=1), Verdict.DIFFERS, 7),
        (with_figures(doubled=1), Verdict.DIFFERS, 7),
        (with_figures(surplus=1), Verdict.DIFFERS, 7),
        (with_figures(different=1, unexplained=1), Verdict.DIFFERS, 7),
        (replace(CLEAN, unplaced=1), Verdict.DIFFERS, 7),
        (with_figures(unexplained=1), Verdict.INCOMPLETE, 8),
        (replace(CLEAN, open=("something",)), Verdict.INCOMPLETE, 8),
    ],
)
def test_the_verdict_and_its_exit_code_follow_from_the_figures(
    report: VerifyReport, verdict: Verdict, code: int
) -> None:
    assert report.verdict is verdict
    assert report.verdict.exit_code == code
    assert report.sentence.startswith(f"{verdict}: orders → shop.orders")
    body = json.loads(json.dumps(report.to_json()))
    assert body["verdict"] == str(verdict)
    assert body["totals"]["rows"] == 9


def shown(report: VerifyReport) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(report_view(report))
    return capture.get()


def test_people_see_the_wrong_partitions_first_and_the_seed_to_repeat_it() -> None:
    bad = PartitionReport(PARTITIONS_SHOWN + 5, 0, 10, lost=3)
    clean = [PartitionReport(number, 0, 10) for number in range(PARTITIONS_SHOWN + 5)]
    findings = tuple(Finding(Kind.LOST, bad.partition, n, n + 2) for n in range(FINDINGS_SHOWN + 2))
    text = shown(replace(CLEAN, partitions=(*clean, bad), findings=findings))
    first = next(line for line in text.splitlines() if line.split() and line.split()[0].isdigit())
    assert first.split()[0] == str(bad.partition)
    assert "6 more" in text
    assert "and 2 places more" in text
    assert f"lost: partition {bad.partition} offset [0,2)" in text
    assert "--seed 42" in text


def test_values_are_told_where_the_finding_has_them() -> None:
    finding = Finding(Kind.VALUE, 1, 5, 6, "city", "'Bern'", "'Basel'")
    assert str(finding) == (
        "value: partition 1 offset 5 column 'city': 'Bern' in Kafka, 'Basel' in the table"
    )


def test_the_artifact_has_the_figures_findings_and_notes() -> None:
    report = replace(
        with_figures(lost=2),
        findings=(Finding(Kind.LOST, 0, 3, 5),),
        notes=("A note.",),
        open=("A question.",),
    )
    text = verify_markdown(report.to_json(), report.sentence, datetime(2026, 1, 2, tzinfo=UTC))
    assert text.startswith("# differs: orders → shop.orders")
    assert "| lost | 0 | 3 |  |" in text
    assert "- open: A question.\n- A note." in text


def config(**columns: str) -> Config:
    body = {
        "kafka": {"bootstrap_servers": ["a:1"], "topic": "orders", "consumer_group": "g"},
        "iceberg": {
            "catalog_type": "sql",
            "warehouse_path": "w",
            "database_name": "shop",
            "table_name": "orders",
            "sql_catalog": {"url": "sqlite:///c.db"},
            "metadata_columns": columns,
        },
    }
    return Config.model_validate(body)


def test_rows_that_cannot_be_told_apart_are_refused_and_not_taken_for_differences() -> None:
    alone = SinkRecord(SinkState(), {}, frozenset(), ())
    must_be_told_apart("t", alone, config(topic=""))
    two_topics = replace(alone, other_topics=frozenset({"refunds"}))
    must_be_told_apart("t", two_topics, config())
    with pytest.raises(ConfigError, match="refunds"):
        must_be_told_apart("t", two_topics, config(topic=""))
    with pytest.raises(ConfigError, match=r"k2i\.other\.state"):
        must_be_told_apart("t", replace(alone, rivals=("k2i.other.state",)), config())

"""`k2i maintenance` tells what was done, whatever could not be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from k2i_tasks import cli_maintenance
from k2i_tasks.config import Config
from k2i_tasks.errors import ServiceError
from k2i_tasks.types import Job, Upkept
from k2i_tasks.wiring_upkeep import possible_jobs, wanted_jobs
from tests.foreign_deletes import delete_equal
from tests.iceberg_tables import NAME, catalog_of, config_at
from tests.upkeep import new_table, numbers


def test_a_job_that_cannot_be_done_keeps_no_other_from_being_done_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = new_table(tmp_path)
    table.append(numbers(1, 2))
    delete_equal(table, next(iter(table.scan().plan_files())).file, "n", [1])
    with pytest.raises(ServiceError, match="equality deletes"):
        cli_maintenance.maintenance(config_at(tmp_path), None, dry_run=False, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert [each["job"] for each in told] == ["expire-snapshots", "clean-orphans"]
    assert all(each["tables"][0]["table"] == ".".join(NAME) for each in told)


def test_a_plan_says_so_though_there_is_no_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_at(tmp_path)
    catalog_of(config).create_namespace("db")
    cli_maintenance.maintenance(config, [Job.COMPACT], dry_run=True, as_json=True)
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["planned"], told["tables"]) == (True, [])


def test_names_of_tables_are_shown_whole_in_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("analytics.page_views", "analytics.page_views_dead_letters")
    figures = {"files_before": 123_456, "bytes_before": 1 << 40, "given_up": 0}
    view = cli_maintenance.report_view(
        Job.COMPACT, [Upkept(name, figures) for name in names], 1.0, dry_run=False
    )
    Console(width=80).print(view)
    shown = capsys.readouterr().out
    assert all(name in shown for name in names)
    assert "…" not in shown


def test_on_nessie_only_files_are_joined(tmp_path: Path) -> None:
    whole = config_at(tmp_path)
    iceberg = whole.iceberg.model_copy(update={"catalog_type": "nessie"})
    nessie: Config = whole.model_copy(update={"iceberg": iceberg})
    assert list(wanted_jobs(nessie)) == possible_jobs(nessie) == [Job.COMPACT]
    assert list(wanted_jobs(whole)) == possible_jobs(whole) == list(Job)

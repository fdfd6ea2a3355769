"""`k2i maintenance`: does one job on the table and its dead letters, and tells what it came to."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from k2i_tasks.calls import Call, RetryPolicy
from k2i_tasks.cli_options import say
from k2i_tasks.config import Config
from k2i_tasks.errors import K2IError, is_transient
from k2i_tasks.figures import count, duration, size
from k2i_tasks.types import Job, Upkept
from k2i_tasks.wiring_upkeep import build_maintenance, possible_jobs


def maintenance(
    config: Config, jobs: Sequence[Job] | None, *, dry_run: bool, as_json: bool
) -> None:
    """Does the jobs one after the other and prints what each came to. May block for long.

    One that cannot be done does not keep the others from being done and told of, unless catalog or
    store is away.

    Args:
        config: names the table.
        jobs: what is done; all that the catalog allows when None.
        dry_run: only tells what would be done.
        as_json: JSON in place of a table.

    Raises:
        K2IError: a job cannot be done, or catalog or store cannot be reached; of several the first.
    """
    upkeep = build_maintenance(config)
    told: list[tuple[Job, list[Upkept], float]] = []
    failures: list[K2IError] = []
    for job in possible_jobs(config) if jobs is None else jobs:
        began = time.monotonic()
        found: list[Upkept] = []

        def attempt(job: Job = job, found: list[Upkept] = found) -> None:
            found[:] = upkeep.plan(job) if dry_run else upkeep.run(job)

        call = Call(job, str(job), attempt, RetryPolicy(budget_seconds=60.0))
        call.run_with_retries()
        if call.error is None:
            told.append((job, found, time.monotonic() - began))
            continue
        failures.append(call.failure())
        if is_transient(failures[-1]):
            break  # what is away is away for the others too
    _print(told, dry_run=dry_run, as_json=as_json)
    for other in failures[1:]:
        say(other, verbose=False)
    for first in failures:
        raise first


def _print(
    told: Sequence[tuple[Job, Sequence[Upkept], float]], *, dry_run: bool, as_json: bool
) -> None:
    if as_json:
        reports = [_as_json(job, found, s, dry_run=dry_run) for job, found, s in told]
        print(json.dumps(reports, indent=2))
        return
    console = Console()
    for job, found, seconds in told:
        console.print(report_view(job, found, seconds, dry_run=dry_run))


def _as_json(
    job: Job, found: Sequence[Upkept], seconds: float, *, dry_run: bool
) -> dict[str, object]:
    tables = [{"table": each.table, **each.figures} for each in found]
    return {"job": job, "planned": dry_run, "seconds": round(seconds, 3), "tables": tables}


def report_view(job: Job, found: Sequence[Upkept], seconds: float, *, dry_run: bool) -> Table:
    """What a job came to, a column for each table.

    Args:
        job: the job.
        found: its figures, by table.
        seconds: time it took.
        dry_run: nothing was changed.
    """
    title = f"{job}, planned" if dry_run else str(job)
    table = Table(
        box=box.SIMPLE_HEAD,
        header_style="bright_black",
        title=f"{title} · {duration(seconds)}",
        title_justify="left",
        min_width=40,
        caption=None if found else "there is no such table yet",
    )
    table.add_column("")
    for each in found:
        table.add_column(each.table, justify="right", overflow="fold")
    for name in dict.fromkeys(name for each in found for name in each.figures):
        table.add_row(
            name.replace("_", " "), *(shown(name, each.figures.get(name)) for each in found)
        )
    return table


def shown(name: str, figure: int | None) -> str:
    """A figure as people read it; bytes by their name."""
    if figure is None:
        return "–"
    return size(figure) if "bytes" in name else count(figure)

"""Upkeep of a table as a flow: compaction, snapshot expiry, orphan removal, each a tracked task.

For deployments where the ingest run leaves it out (`maintenance.in_run = false`): it runs beside
the ingest, in a process of its own, on a schedule.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from k2i_tasks.calls import Call, RetryPolicy
from k2i_tasks.config import Config, load_config, refuse_secrets
from k2i_tasks.errors import ConfigError
from k2i_tasks.tasks import run_task
from k2i_tasks.tracking.report import artifact_key
from k2i_tasks.tracking.upkeep_report import upkeep_markdown
from k2i_tasks.types import Job, Upkept
from k2i_tasks.wiring_fleet import configs_of
from k2i_tasks.wiring_upkeep import RETRY_SECONDS, build_maintenance, wanted_jobs


@flow(name="k2i-maintenance", validate_parameters=False, persist_result=False, log_prints=False)
def maintain(
    config_path: str, jobs: list[str] | None = None, overrides: dict[str, Any] | None = None
) -> None:
    """Does the jobs on each configured table and its dead letters, and publishes what came of it.

    Args:
        config_path: the configuration file on the machine that runs this.
        jobs: compact, expire-snapshots, clean-orphans; those that the configuration enables when
            None.
        overrides: `section.key` to value; no secrets, Prefect stores them in the clear.

    Raises:
        ConfigError: the configuration is wrong, or there is no such job.
        K2IError: a job could not be done; the others were.
    """
    refuse_secrets(overrides or {})
    config = load_config(Path(config_path), environ=os.environ, overrides=overrides or {})
    wanted = None if jobs is None else [_job(job) for job in jobs]
    failed = [call for one in configs_of(config) for call in _maintained(one, wanted)]
    for call in failed:
        raise call.failure()


def _maintained(config: Config, jobs: Sequence[Job] | None) -> list[Call]:
    """Does the jobs on one table, and publishes what came of it; those that failed."""
    wanted = list(wanted_jobs(config)) if jobs is None else jobs
    maintenance, table = build_maintenance(config), ".".join(config.iceberg.identifier)
    done: dict[Job, list[Upkept]] = {}
    failed: list[Call] = []
    for job in wanted:

        def attempt(job: Job = job) -> None:
            done[job] = maintenance.run(job)

        call = Call(job, f"{job} {table}", attempt, RetryPolicy(budget_seconds=RETRY_SECONDS))
        run_task(call)
        failed += [call] if call.error is not None else []
    create_markdown_artifact(
        key=artifact_key(table, prefix="k2i-maintenance"),
        markdown=upkeep_markdown(done, [str(call.failure()) for call in failed], datetime.now(UTC)),
        description=f"Maintenance of {table}",
    )
    return failed


def _job(word: str) -> Job:
    try:
        return Job(word)
    except ValueError as error:
        raise ConfigError(
            f"There is no maintenance job {word!r}.",
            field="jobs",
            remedy=f"There are {', '.join(Job)}.",
        ) from error

"""What a table holds, as an artifact in Prefect, on a schedule."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from k2i_tasks.config import load_config, refuse_secrets
from k2i_tasks.tracking.report import artifact_key, table_markdown
from k2i_tasks.wiring_fleet import configs_of
from k2i_tasks.wiring_table import table_report as read_table


@flow(
    name="k2i-table-report",
    retries=2,
    retry_delay_seconds=10,
    persist_result=False,
    log_prints=False,
)
def table_report(config_path: str, overrides: dict[str, Any] | None = None) -> None:
    """Publishes rows, snapshots, size and recorded offsets of each committed table. Reads only.

    Args:
        config_path: the configuration file on the machine that runs this.
        overrides: `section.key` to value; no secrets, Prefect stores them in the clear.

    Raises:
        K2IError: the configuration is wrong, or the catalog or a table cannot be read.
    """
    refuse_secrets(overrides or {})
    config = load_config(Path(config_path), environ=os.environ, overrides=overrides or {})
    for one in configs_of(config):
        report = read_table(one)
        create_markdown_artifact(
            key=artifact_key(str(report["table"]), prefix="k2i-table"),
            markdown=table_markdown(report, datetime.now(UTC)),
            description=f"State of {report['table']}",
        )

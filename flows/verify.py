"""Whether a table is its topic, as an artifact in Prefect, on a schedule."""

from __future__ import annotations

import os
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from k2i_tasks.config import load_config, refuse_secrets
from k2i_tasks.errors import IntegrityError
from k2i_tasks.tracking.report import artifact_key
from k2i_tasks.tracking.verify_report import verify_markdown
from k2i_tasks.verification.report import Verdict
from k2i_tasks.verification.subject import VerifyOptions
from k2i_tasks.wiring_fleet import configs_of
from k2i_tasks.wiring_table import verify_table


@flow(
    name="k2i-verify",
    persist_result=False,
    log_prints=False,
)
def verify(config_path: str, overrides: dict[str, Any] | None = None) -> None:
    """Compares each committed table with its topic and publishes the results. Reads only.

    Args:
        config_path: the configuration file on the machine that runs this.
        overrides: `section.key` to value; no secrets, Prefect stores them in the clear.

    Raises:
        IntegrityError: a table differs from the topic; the artifact says where.
        K2IError: the configuration is wrong, or Kafka, the catalog or the store cannot be read.
    """
    refuse_secrets(overrides or {})
    config = load_config(Path(config_path), environ=os.environ, overrides=overrides or {})
    differing: list[str] = []
    for one in configs_of(config):
        # Each run another sample: over time all of the table is looked at.
        report = verify_table(one, VerifyOptions(seed=random.randrange(1 << 31)))
        create_markdown_artifact(
            key=artifact_key(report.table, prefix="k2i-verify"),
            markdown=verify_markdown(report.to_json(), report.sentence, datetime.now(UTC)),
            description=report.sentence,
        )
        differing += [report.sentence] if report.verdict is Verdict.DIFFERS else []
    if differing:
        raise IntegrityError(f"{'; '.join(differing)}.")

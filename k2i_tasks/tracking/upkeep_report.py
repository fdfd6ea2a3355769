"""What maintenance came to as Markdown, for an artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from k2i_tasks.tracking.report import markdown_table
from k2i_tasks.types import Job, Upkept


def upkeep_markdown(
    done: Mapping[Job, Sequence[Upkept]], failures: Sequence[str], at: datetime
) -> str:
    """The result of maintenance jobs, as Markdown.

    Args:
        done: what each job came to, by table.
        failures: what went wrong, one sentence each.
        at: when it was done.
    """
    parts = [f"# Maintenance, {at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"]
    for job, tables in done.items():
        names = list(dict.fromkeys(name for each in tables for name in each.figures))
        heads = ("table", *(name.replace("_", " ") for name in names))
        rows = [
            (each.table, *(f"{each.figures.get(name, 0):,}" for name in names)) for each in tables
        ]
        parts += [f"## {job}", markdown_table(heads, rows) if rows else "There is no table yet."]
    if failures:
        parts += ["## Not done", "\n".join(f"- {each}" for each in failures)]
    return "\n\n".join(parts) + "\n"

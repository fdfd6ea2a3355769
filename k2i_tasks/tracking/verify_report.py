"""A verification as Markdown, for an artifact."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from k2i_tasks.tracking.report import PARTITIONS_SHOWN_MAX, markdown_table

FINDINGS_SHOWN_MAX = 50
_COLUMNS = (
    *("partition", "start", "next", "rows", "dead_letters", "explained", "accepted", "lost"),
    *("unexplained", "doubled", "surplus", "compared", "different"),
)


def verify_markdown(report: Mapping[str, Any], sentence: str, read_at: datetime) -> str:
    """The result of a verification, as Markdown.

    Args:
        report: as `VerifyReport.to_json` gives it.
        sentence: the verdict for people.
        read_at: when it was made.
    """
    committed = "never"
    if report["committed_at_ms"] is not None:
        at = datetime.fromtimestamp(report["committed_at_ms"] / 1000, UTC)
        committed = f"{at:%Y-%m-%d %H:%M:%S} UTC"
    figures = [
        ("verdict", report["verdict"]),
        ("snapshot", f"{report['snapshot_id']} of {committed}"),
        ("values", f"{report['values']}, seed {report['seed']}"),
        ("seconds", f"{report['seconds']:,.1f}"),
        ("verified at", f"{read_at:%Y-%m-%d %H:%M:%S} UTC"),
    ]
    heads = tuple(name.replace("_", " ") for name in _COLUMNS)
    partitions = [
        tuple(f"{one[name]:,}" for name in _COLUMNS)
        for one in report["partitions"][:PARTITIONS_SHOWN_MAX]
    ]
    parts = [
        f"# {sentence}",
        markdown_table(("figure", "value"), figures),
        "## Partitions",
        markdown_table(heads, partitions),
    ]
    left = len(report["partitions"]) - len(partitions)
    if left:
        parts.append(f"and {left} partitions more")
    if report["findings"]:
        rows = [
            (each["kind"], str(each["partition"]), f"{each['first']:,}", each["column"])
            for each in report["findings"][:FINDINGS_SHOWN_MAX]
        ]
        heads = ("what", "partition", "first offset", "column")
        parts += ["## Findings", markdown_table(heads, rows)]
    told = [*(f"open: {each}" for each in report["open"]), *report["notes"]]
    if told:
        parts += ["## Notes", "\n".join(f"- {each}" for each in told)]
    return "\n\n".join(parts) + "\n"

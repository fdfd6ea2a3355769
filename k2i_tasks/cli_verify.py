"""`k2i verify`: runs a verification, shows how far it is, and tells what it found."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from k2i_tasks.config import Config
from k2i_tasks.errors import Component, ServiceError
from k2i_tasks.figures import count, duration
from k2i_tasks.verification.report import Verdict, VerifyReport
from k2i_tasks.verification.subject import VerifyOptions
from k2i_tasks.verification.verifier import Progress
from k2i_tasks.wiring_table import verify_table

#: Places that are shown; the JSON report has more.
FINDINGS_SHOWN = 20
#: Partitions that are shown, those with a difference first.
PARTITIONS_SHOWN = 64
#: Time between two lines that tell how far it is, where there is no terminal.
LINE_SECONDS = 5.0
#: Without a terminal no column is left out.
WIDTH_WITHOUT_TERMINAL = 200
_STYLES = {Verdict.PROVEN: "green", Verdict.DIFFERS: "red", Verdict.INCOMPLETE: "yellow"}
#: Figures of a partition and the words that stand above them.
_COLUMNS = {
    "rows": "rows",
    "dead_letters": "dead letters",
    "explained": "explained gaps",
    "accepted": "accepted gaps",
    "lost": "lost",
    "unexplained": "unexplained",
    "doubled": "doubled",
    "surplus": "surplus",
    "compared": "values compared",
    "different": "values different",
    "vanished": "no longer in Kafka",
}
_WRONG = ("lost", "unexplained", "doubled", "surplus", "different")
#: Columns that are always there; the others only when there is something in them.
_ALWAYS = ("rows", "dead_letters", "explained", "lost", "doubled", "surplus", "compared")


def fresh_seed() -> int:
    """A seed for a sample that nobody has asked for by number."""
    return random.randrange(1 << 31)


def verify(config: Config, options: VerifyOptions, *, as_json: bool, output: Path | None) -> int:
    """Runs the verification and prints its report; the exit code. May block.

    Args:
        config: names the table and the topic.
        options: what is compared.
        as_json: JSON in place of tables.
        output: a file for the JSON report.

    Raises:
        K2IError: Kafka, the catalog or the store cannot be read, or the file not written.
    """
    with _progress() as progress:
        report = verify_table(config, options, progress)
    text = json.dumps(report.to_json(), indent=2)
    if output is not None:
        _write(output, text)
    if as_json:
        print(text)
    else:
        console = Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL)
        console.print(report_view(report))
    return report.verdict.exit_code


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ServiceError(
            f"{path} cannot be written: {error.strerror or error}.",
            component=Component.STORAGE,
            remedy="Name another file with --output.",
        ) from error


@contextmanager
def _progress() -> Iterator[Progress]:
    """Bars on a terminal, else a line now and then; on standard error, so that JSON stays JSON."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (TextColumn("{task.description:9}"), BarColumn(), MofNCompleteColumn())
    with Bars(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def shown(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step)
            bars.update(tasks[step], completed=done, total=total)

        yield shown


class _Lines:
    """How far it is, as lines."""

    def __init__(self) -> None:
        self._next = time.monotonic() + LINE_SECONDS

    def __call__(self, step: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + LINE_SECONDS
            print(f"{step}: {count(done)} of {count(total)}", file=sys.stderr, flush=True)


def report_view(report: VerifyReport) -> RenderableType:
    """The report as tables and lines."""
    parts: list[RenderableType] = [_partitions(report)]
    for finding in report.findings[:FINDINGS_SHOWN]:
        parts.append(Text(str(finding), "red"))
    if len(report.findings) > FINDINGS_SHOWN:
        more = len(report.findings) - FINDINGS_SHOWN
        parts.append(Text(f"and {more} places more in the JSON report", "red"))
    parts += [Text(f"open: {sentence}", "yellow") for sentence in report.open]
    parts += [Text(f"note: {sentence}", "bright_black") for sentence in report.notes]
    sample = f", --seed {report.seed}" if report.values == "sampled" else ""
    told = f"snapshot {report.snapshot_id}, {duration(report.seconds)}{sample}"
    verdict = Text.assemble(("● ", _STYLES[report.verdict]), (report.sentence, "bold"))
    return Group(*parts, verdict, Text(f"  {told}", "bright_black"))


def _partitions(report: VerifyReport) -> Table:
    totals = report.totals
    names = [name for name in _COLUMNS if name in _ALWAYS or totals[name]]
    table = Table(box=box.SIMPLE_HEAD, header_style="bright_black")
    for heading in ("partition", "start", "next", *(_COLUMNS[name] for name in names)):
        table.add_column(heading, justify="right")
    ordered = sorted(
        report.partitions,
        key=lambda one: (not any(getattr(one, name) for name in _WRONG), one.partition),
    )
    for one in ordered[:PARTITIONS_SHOWN]:
        cells = [
            Text(
                count(getattr(one, name)),
                "red" if name in _WRONG and getattr(one, name) else "",
            )
            for name in names
        ]
        table.add_row(str(one.partition), count(one.start), count(one.next), *cells)
    left = ordered[PARTITIONS_SHOWN:]
    if left:
        sums = [count(sum(getattr(one, name) for one in left)) for name in names]
        table.add_row(f"{len(left)} more", "", "", *sums)
    return table

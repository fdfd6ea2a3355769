"""`python -m k2i_tasks.wal DIR`: shows what a write-ahead log holds. Reads only; takes no lock."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from k2i_tasks.errors import EXIT_CODES, Component, K2IError
from k2i_tasks.wal.disk import disk_errors
from k2i_tasks.wal.entries import WalEntry
from k2i_tasks.wal.folder import Listing, list_folder
from k2i_tasks.wal.format import encode_payload
from k2i_tasks.wal.replay import read_segment
from k2i_tasks.wal.scan import Ending, Scan

#: A payload is cut after so many characters in the table; JSON lines have it whole.
_SHOWN = 400


@dataclass(frozen=True, slots=True)
class Shown:
    """One segment as found."""

    path: Path
    size: int
    scan: Scan
    entries: Sequence[WalEntry]
    live: bool

    @property
    def verdict(self) -> str:
        where = f" at byte {self.scan.position}: {self.scan.why}" if self.scan.why else ""
        return f"{self.scan.ending}{where}"


def read_all(folder: Path) -> Iterator[Shown]:
    """Every segment in `folder`, those set aside first.

    Raises:
        K2IError: the folder or a file cannot be read, or a later version wrote it.
    """
    listing = list_folder(folder)
    for path, number in _numbered(listing):
        try:
            with disk_errors(f"read {path}"):
                data = path.read_bytes()
        except K2IError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                continue  # a running process has just removed it
            raise
        live = number == max(listing.segments, default=0) and path.suffix == ".log"
        scan, entries = read_segment(data, number, last=live)
        yield Shown(path, len(data), scan, entries, live)


def _numbered(listing: Listing) -> Iterator[tuple[Path, int]]:
    for path in listing.evidence:
        yield path, int(path.name.partition(".")[0])
    for number, path in listing.segments.items():
        yield path, number


def json_lines(shown: Shown) -> Iterator[str]:
    """One line for the segment, one for each of its entries."""
    head = {
        "segment": str(shown.path),
        "live": shown.live,
        "size_bytes": shown.size,
        "ending": str(shown.scan.ending),
        "position": shown.scan.position,
        "why": shown.scan.why,
    }
    yield json.dumps(head)
    for entry, frame in zip(shown.entries, shown.scan.frames, strict=False):
        line = {
            "lsn": entry.lsn,
            "kind": str(entry.kind),
            "position": frame.position,
            "body": dict(entry.body),
        }
        yield json.dumps(line)


def table(shown: Shown) -> Table:
    """The segment's entries for people; text from the log is shown as it is, never as markup."""
    title = f"{shown.path} ({'live' if shown.live else 'not live'}, {shown.size} bytes)"
    view = Table(title=Text(title), caption=Text(shown.verdict), title_justify="left")
    view.add_column("lsn", justify="right")
    view.add_column("byte", justify="right")
    view.add_column("kind")
    view.add_column("body", overflow="fold")
    for entry, frame in zip(shown.entries, shown.scan.frames, strict=False):
        body = encode_payload(entry.body).decode("ascii")
        cut = body if len(body) <= _SHOWN else f"{body[:_SHOWN]} ({len(body)} characters)"
        view.add_row(str(entry.lsn), str(frame.position), Text(entry.kind), Text(cut))
    return view


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the log; 5 when a live segment is corrupt or nothing can be read, else 0."""
    parser = argparse.ArgumentParser(prog="python -m k2i_tasks.wal", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="transaction_log.log_dir")
    parser.add_argument("--json", action="store_true", help="JSON lines, also on a terminal")
    options = parser.parse_args(arguments)
    console = Console()
    code = 0
    try:
        for shown in read_all(options.folder):
            if shown.live and shown.scan.ending is Ending.CORRUPT:
                code = EXIT_CODES[Component.WAL]
            if options.json or not console.is_terminal:
                for line in json_lines(shown):
                    print(line)
            else:
                console.print(table(shown))
    except K2IError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return code


if __name__ == "__main__":
    sys.exit(main())

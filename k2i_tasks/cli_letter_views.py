"""`k2i dead-letters`: counts them, shows one whole, replays them, and tells what came of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pyarrow as pa
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from k2i_tasks.cells import cell, csv_lines, json_lines, plain
from k2i_tasks.config import Config
from k2i_tasks.errors import Component, ServiceError
from k2i_tasks.figures import count, size
from k2i_tasks.iceberg.letters import Letters, at, place_of
from k2i_tasks.logs import one_line
from k2i_tasks.replay import Replayed
from k2i_tasks.wiring_letters import build_replay, open_letters

#: Without a terminal no column is left out.
WIDTH_WITHOUT_TERMINAL = 200
#: Bytes of one line of a hexadecimal dump.
_DUMP_BYTES = 16
_KINDS = ("stage", "code", "topic", "partition")
_FIGURES = pa.schema(
    [
        ("stage", pa.string()),
        ("code", pa.string()),
        ("topic", pa.string()),
        ("partition", pa.int32()),
        ("letters", pa.int64()),
        ("replayed", pa.int64()),
        ("first", pa.timestamp("us", "UTC")),
        ("last", pa.timestamp("us", "UTC")),
    ]
)


def list_letters(config: Config, where: str, *, done: bool, form: str, kinds_max: int) -> None:
    """Prints how many letters there are of each kind, and from when to when. May block.

    Args:
        config: names the table.
        where: which letters; all when empty.
        done: those that were replayed too.
        form: `table`, `json` or `csv`.
        kinds_max: kinds at most, those with most letters first; 0 for all.

    Raises:
        ConfigError: the condition cannot be used.
        K2IError: the table is not there, or cannot be read.
    """
    letters = open_letters(config)
    found = kinds_of(letters, where, done=done)
    shown = found.slice(0, kinds_max) if kinds_max else found
    if form == "table":
        _console().print(kinds_view(letters.name, shown, found, done=done))
        return
    for text in json_lines(shown) if form == "json" else csv_lines(shown):
        sys.stdout.write(text)
    if shown.num_rows < found.num_rows:
        rest = found.num_rows - shown.num_rows
        print(f"{count(rest)} kinds more; ask for more with --limit.", file=sys.stderr)


def kinds_of(letters: Letters, where: str, *, done: bool) -> pa.Table:
    """Letters by stage, code, topic and partition: n kinds, those with most letters first."""
    kinds: dict[tuple[Any, ...], list[Any]] = {}
    columns = (*_KINDS, "failed_at", "replayed_at")
    for piece in letters.pieces(letters.chosen(where, done=done), columns):
        grouped = piece.group_by(list(_KINDS)).aggregate(
            [
                ("failed_at", "count"),
                ("replayed_at", "count"),
                ("failed_at", "min"),
                ("failed_at", "max"),
                ([], "count_all"),
            ]
        )
        for row in grouped.to_pylist():
            first, last = row["failed_at_min"], row["failed_at_max"]
            known = kinds.setdefault(tuple(row[name] for name in _KINDS), [0, 0, first, last])
            known[0] += row["count_all"]
            known[1] += row["replayed_at_count"]
            known[2] = min(filter(None, (known[2], first)), default=None)
            known[3] = max(filter(None, (known[3], last)), default=None)
    ordered = sorted(kinds.items(), key=lambda item: (-item[1][0], item[0]))
    rows = [dict(zip(_FIGURES.names, (*kind, *known), strict=True)) for kind, known in ordered]
    return pa.Table.from_pylist(rows, schema=_FIGURES)


def kinds_view(name: str, shown: pa.Table, found: pa.Table, *, done: bool) -> RenderableType:
    """The kinds as a table, with the sum of all.

    Args:
        name: of the dead-letter table.
        shown: the kinds that are shown.
        found: all of them.
        done: whether letters that were replayed are among them.
    """
    table = Table(box=box.SIMPLE_HEAD, header_style="bright_black", title=name)
    table.title_justify = "left"
    figures = ["letters", *(["replayed"] if done else [])]
    for heading in ("code", "stage", "topic"):
        table.add_column(heading, overflow="fold")
    for heading in ("partition", *figures, "first", "last"):
        table.add_column(heading, justify="right")
    for row in shown.to_pylist():
        texts = [cell(row[part]) for part in ("code", "stage", "topic", "partition")]
        counts = [count(row[figure]) for figure in figures]
        table.add_row(*map(Text, texts), *counts, _time(row["first"]), _time(row["last"]))
    total = sum(found["letters"].to_pylist())
    words = f"{count(total)} letters" if done else f"{count(total)} open letters"
    rest = found.num_rows - shown.num_rows
    more = f", {count(rest)} kinds not shown (--limit)" if rest else ""
    return Group(table, Text(f"  {words} of {count(found.num_rows)} kinds{more}", "bright_black"))


def show_letters(
    config: Config,
    place: str | None,
    where: str,
    *,
    letters_max: int,
    bytes_max: int,
    as_json: bool,
) -> int:
    """Prints letters in full, their payloads cut to a bound; the exit code. May block.

    Args:
        config: names the table.
        place: of one letter, `TOPIC/PARTITION/OFFSET`; None for those of `where`.
        where: which letters.
        letters_max: letters at most.
        bytes_max: bytes of each key, value and header that are shown.
        as_json: a JSON array, bytes in base64 and not cut.

    Raises:
        ConfigError: place or condition cannot be used.
        ServiceError: there is no such letter.
    """
    wanted = None if place is None else at(*place_of(place))
    letters = open_letters(config)
    chosen = letters.chosen(where, done=True) if wanted is None else wanted
    found: list[dict[str, Any]] = []
    for piece in letters.pieces(chosen):
        found += piece.slice(0, letters_max - len(found)).to_pylist()
        if len(found) >= letters_max:
            break
    if not found:
        raise ServiceError(
            f"{letters.name} has no such letter.",
            component=Component.ICEBERG,
            remedy="See what there is with `k2i dead-letters list --all`.",
        )
    if as_json:
        print(json.dumps([plain(one) for one in found], indent=2, ensure_ascii=False))
        return 0
    console = _console()
    for one in found:
        console.print(letter_view(one, bytes_max), soft_wrap=True)
    return 0


def letter_view(letter: Mapping[str, Any], bytes_max: int) -> RenderableType:
    """One letter: where it was, why it was refused, and its bytes."""
    place = f"{letter['topic']}/{letter['partition']}/{letter['offset']}"
    state = "open"
    if letter["replayed_at"] is not None:
        state = f"replayed {_time(letter['replayed_at'])} ({letter['replay_id']})"
    elif letter["replay_id"] is not None:
        state = f"chosen by a replay that has not ended ({letter['replay_id']})"
    head = {
        "code": f"{letter['code']} ({letter['stage']})",
        "reason": letter["reason"],
        "failed": _time(letter["failed_at"]),
        "timestamp": _time(letter["timestamp"]),
        "schema id": letter["schema_id"],
        "state": state,
    }
    parts: list[RenderableType] = [Text(one_line(place), "bold")]
    parts += [
        _line(name, one_line(str(value))) for name, value in head.items() if value is not None
    ]
    headers = letter["headers"] or ()
    parts += [
        _bytes(f"header {one_line(header['key'])}", header["value"], bytes_max)
        for header in headers
    ]
    parts += [_bytes(name, letter[name], bytes_max) for name in ("key", "value")]
    return Group(*parts, Text(""))


def _line(name: str, value: str) -> Text:
    return Text.assemble((f"  {name:10} ", "bright_black"), value)


def _bytes(name: str, value: bytes | None, bytes_max: int) -> Text:
    """Bytes as text where they are, else in hexadecimal."""
    if value is None:
        return _line(name, "∅")
    shown = value[:bytes_max]
    cut = f", the first {size(bytes_max)}" if len(value) > bytes_max else ""
    lines = _text_lines(shown, cut=bool(cut)) or _dump(shown)
    what = f"{size(len(value))}{cut}"
    if not lines:
        return _line(name, what)
    if len(lines) == 1 and not cut:
        return _line(name, lines[0])
    return Text("\n").join([_line(name, what), *(Text(f"    {line}") for line in lines)])


def _text_lines(value: bytes, *, cut: bool) -> list[str]:
    """The lines of a text without what would drive a terminal; nothing for what is no text."""
    ends = range(len(value), max(0, len(value) - 4) - 1, -1) if cut else (len(value),)
    for end in ends:  # a character may be cut
        try:
            text = value[:end].decode()
        except UnicodeDecodeError:
            continue
        if any(ord(char) < 32 and char not in "\t\r\n" for char in text):
            return []
        return [one_line(line) for line in text.splitlines()]
    return []


def _dump(value: bytes) -> list[str]:
    lines = []
    for start in range(0, len(value), _DUMP_BYTES):
        part = value[start : start + _DUMP_BYTES]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{start:08x}  {part.hex(' '):{_DUMP_BYTES * 3}} {text}")
    return lines


def replay_letters(config: Config, where: str, *, dry_run: bool, as_json: bool) -> int:
    """Replays open letters and prints what came of it; the exit code. May block for long.

    Args:
        config: the configuration that they are decoded with.
        where: which letters; all when empty.
        dry_run: only tells what would be done.
        as_json: JSON in place of a table.

    Raises:
        K2IError: it could not be ended; what is done by then is told, and done once.
    """
    console = Console(stderr=True)
    with console.status("replaying dead letters") as status:

        def told(done: Replayed) -> None:
            status.update(f"{count(done.read)} letters read, {count(done.rows)} into the table")

        done = build_replay(config, told).run(where, dry_run=dry_run)
    if as_json:
        print(json.dumps(replayed_json(done, dry_run=dry_run), indent=2))
    else:
        _console().print(replayed_view(done, dry_run=dry_run))
    return 0


def replayed_json(done: Replayed, *, dry_run: bool) -> dict[str, Any]:
    """What a replay came to, in terms of JSON."""
    failed = [
        {
            "stage": kind[0],
            "code": kind[1],
            "letters": letters,
            "example": done.reasons[kind][0],
            "reason": done.reasons[kind][1],
        }
        for kind, letters in done.failed.most_common()
    ]
    return {
        "planned": dry_run,
        "read": done.read,
        "rows": done.rows,
        "present": done.present,
        "waiting": done.waiting,
        "finished": done.finished,
        "reopened": done.reopened,
        "failed": failed,
    }


def replayed_view(done: Replayed, *, dry_run: bool) -> RenderableType:
    """What a replay came to, as lines and a table of what is still refused."""
    verb = "would go" if dry_run else "went"
    lines = [
        Text(f"{count(done.read)} open letters read, {count(done.rows)} {verb} into the table")
    ]
    for number, words in (
        (done.present, "were rows of the table already: done"),
        (done.waiting, "left alone, since their batch is not committed yet"),
        (done.finished, "of an interrupted replay were in the table: done"),
        (done.reopened, "of an interrupted replay were not in the table: opened again"),
    ):
        if number:
            lines.append(Text(f"{count(number)} {words}"))
    if not done.failed:
        return Group(*lines)
    table = Table(box=box.SIMPLE_HEAD, header_style="bright_black")
    table.add_column("still refused", justify="right")
    for heading in ("code", "stage", "such as", "reason"):
        table.add_column(heading, overflow="fold")
    for kind, letters in done.failed.most_common():
        place, reason = done.reasons[kind]
        texts = (kind[1], kind[0], one_line(place), one_line(reason))
        table.add_row(count(letters), *map(Text, texts))
    return Group(*lines, table)


def _time(value: datetime | None) -> str:
    return "–" if value is None else f"{value:%Y-%m-%d %H:%M:%S}"


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL)

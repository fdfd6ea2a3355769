"""Foreign documents into one table, and into a table for each kind: what becomes of every message.

The files are not part of this project: name JSON files, each a list of `{"name": ..., "examples":
[...]}` (as in npm's `@octokit/webhooks-examples`), or of JSON lines, whose name is then their kind.
Each document is one message, with its kind as a header. Messages have to be rows and dead letters,
each position once, and DuckDB and PyIceberg have to read the same values.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from confluent_kafka import Producer
from pyiceberg.table import Table

from benchmarks import report
from benchmarks import topic as topics
from benchmarks.ingested import EndedError
from benchmarks.services import Services, services
from tests.program import Program
from tests.running import running
from tests.support import create_topic, read_by_metadata

PARTITIONS = 4
HEADER = "kind"
POLICIES = ("dead-letter", "variant-column")
Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Document:
    """One message: its kind and its bytes."""

    kind: str
    payload: bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--json", type=Path, help="write the figures to this file")


def run(chosen: argparse.Namespace) -> int:
    """Measures, prints and writes the figures; 1 if a message is lost, doubled or read wrongly."""
    try:
        documents = [one for file in chosen.files for one in documents_of(file)]
    except (OSError, ValueError) as error:
        print(f"the documents cannot be read: {error}", file=sys.stderr)
        return 2
    if not documents:
        print("there is no document in these files", file=sys.stderr)
        return 2
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="k2i-corpus-") as folder:
        home = Path(folder)
        with services(home) as running_services:
            topic = _fill(running_services.bootstrap, documents)
            try:
                for policy in POLICIES:
                    for many in (False, True):
                        print(f"== {policy}, {_way(many)}", file=sys.stderr, flush=True)
                        found.append(
                            _landed(topic, documents, policy, many, running_services, home)
                        )
            except (EndedError, AssertionError) as error:
                print(error, file=sys.stderr)
                return 2
    told = {"messages": len(documents), **report.machine(), "runs": found}
    columns = ("", "tables", "columns", "rows", "dead letters", "snapshots", "readers", "")
    rows = [
        (
            f"{one['policy']}, {one['way']}",
            str(one["tables"]),
            str(one["columns"]),
            f"{one['rows']:,}",
            f"{one['dead_letters']:,}",
            str(one["snapshots"]),
            "agree" if one["readers_agree"] else "DIFFER",
            "" if one["complete"] else "NOT EQUAL",
        )
        for one in found
    ]
    report.show(f"{len(documents):,} documents of {len(chosen.files)} files", columns, rows)
    for one in found:
        if one["codes"]:
            print(f"{one['policy']}, {one['way']}: {one['codes']}")
    equal = all(one["complete"] and one["readers_agree"] for one in found)
    return report.finished(told, chosen.json, equal=equal)


def documents_of(file: Path) -> Iterator[Document]:
    """The documents of a file.

    Raises:
        ValueError: it is neither a list of examples nor JSON lines.
    """
    text = file.read_text(encoding="utf-8")
    try:
        whole = json.loads(text)
    except ValueError:
        whole = None
    if isinstance(whole, list) and all(isinstance(one, dict) for one in whole):
        for one in whole:
            if not {"name", "examples"} <= one.keys():
                raise ValueError(f"{file}: an entry has no name or no examples")
            for example in one["examples"]:
                yield Document(str(one["name"]), json.dumps(example).encode())
        return
    for line in text.splitlines():
        if line.strip():
            yield Document(file.stem, line.encode())


def _way(many: bool) -> str:
    return "a table for each kind" if many else "one table"


def _fill(bootstrap: str, documents: Sequence[Document]) -> str:
    """A topic of all documents, with their kinds as headers."""
    name = topics.named("corpus")
    create_topic(bootstrap, name, PARTITIONS)
    producer = Producer({"bootstrap.servers": bootstrap, "message.max.bytes": 32 << 20})
    for number, one in enumerate(documents):
        headers: list[tuple[str, str | bytes | None]] = [(HEADER, one.kind.encode())]
        producer.produce(name, one.payload, partition=number % PARTITIONS, headers=headers)
    left = producer.flush(120)
    if left:
        raise EndedError(f"{left} documents were not delivered")
    return name


def _landed(
    topic: str,
    documents: Sequence[Document],
    policy: str,
    many: bool,
    services: Services,
    home: Path,
) -> dict[str, Any]:
    prefix = f"c{POLICIES.index(policy)}{int(many)}"
    folder = home / prefix
    folder.mkdir()
    routing = f'[routing]\ntopics = ["{topic}"]\nby_header = "{HEADER}"\n'
    routing += f'table_name = "{prefix}_{{value}}"\n'
    program = Program(
        folder,
        services.bootstrap,
        topic,
        services.catalog,
        extra="[prefect]\nenabled = false\n",
        routing=routing if many else "",
        environ={
            "K2I_SCHEMA_EVOLUTION_ON_BREAKING_CHANGE": policy,
            "K2I_BUFFER_FLUSH_INTERVAL_SECONDS": "1",
            **({} if many else {"K2I_ICEBERG_TABLE_NAME": f"{prefix}_all"}),
        },
    )
    ends = Counter(n % PARTITIONS for n in range(len(documents)))
    with running(program) as run:
        run.until(lambda page: _consumed(page) == len(documents), "all consumed")
        run.drain()
    kinds = {one.kind for one in documents}
    names = sorted(f"{prefix}_{_plain(kind)}" for kind in kinds) if many else [f"{prefix}_all"]
    rows: list[Place] = []
    letters: list[dict[str, Any]] = []
    columns = snapshots = 0
    agree = True
    for name in names:
        table = program.load_table(name)
        if table is not None:
            columns += len(table.schema().fields)
            snapshots += len(table.snapshots())
            places, same = _read_twice(table)
            rows += places
            agree &= same
        beside = program.load_table(f"{name}__dead_letters")
        if beside is not None:
            letters += read_by_metadata(beside.metadata_location)
    places = sorted([*rows, *((one["partition"], one["offset"]) for one in letters)])
    wanted = sorted((partition, n) for partition, end in ends.items() for n in range(end))
    return {
        "policy": policy,
        "way": _way(many),
        "tables": len(names),
        "columns": columns,
        "rows": len(rows),
        "dead_letters": len(letters),
        "codes": dict(Counter(one["code"] for one in letters).most_common()),
        "snapshots": snapshots,
        "readers_agree": agree,
        "complete": places == wanted,
    }


def _consumed(page: Mapping[str, Any]) -> int:
    return int(page["records"]["consumed"]) if page["lag_total"] == 0 else -1


def _plain(kind: str) -> str:
    return "".join(char if char.isalnum() or char in "_-" else "_" for char in kind)


def _read_twice(table: Table) -> tuple[list[Place], bool]:
    """The places of the table's rows, and whether DuckDB and PyIceberg read the same of each."""
    theirs = {_place(row): row for row in read_by_metadata(table.metadata_location)}
    ours = table.scan().to_arrow().to_pylist()
    same = all(_canonical(row) == _canonical(theirs.get(_place(row), {})) for row in ours) and len(
        ours
    ) == len(theirs)
    return [_place(row) for row in ours], same


def _place(row: Mapping[str, Any]) -> Place:
    return row["_kafka_partition"], row["_kafka_offset"]


def _canonical(value: Any) -> Any:
    """A value as both readers give it: what differs is only how Python holds it."""
    if isinstance(value, dict):
        return {key: _canonical(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(one) for one in value]
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, datetime):
        return value.timestamp() if value.tzinfo else value.isoformat()
    if isinstance(value, float):
        return "nan" if math.isnan(value) else value
    if isinstance(value, date | Decimal | UUID):
        return str(value)
    return value

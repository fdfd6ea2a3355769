"""One topic of framed payloads into many tables by a field: a real registry, real producers."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastavro
import pytest

from tests.conftest import Stack
from tests.integration.test_schema_registry import Registered
from tests.program import finished
from tests.running import Running, at, running
from tests.schema_registry import FakeRegistry, frame
from tests.support import CatalogAt, Position, assert_exactly_once, read_by_metadata

pytestmark = pytest.mark.integration

Row = dict[str, Any]
#: (number, kind or None) -> payload.
Write = Callable[[int, str | None], bytes]

ROUTING = """
[routing]
topics = ["TOPIC"]
by_field = "meta.kind"
table_name = "TABLE_{value}"
value_missing = "rest"
restart_seconds_max = 1
discovery_seconds = 1
"""
#: A table that buffers what others have long committed.
SLOW = """
[[routing.tables]]
topic = ".*"
value = "VALUE"
settings = { buffer.flush_interval_seconds = 600.0, buffer.flush_batch_size = 1000000 }
"""
ENUM = {"type": "enum", "name": "Kind", "symbols": ["click", "view"]}
PROTO = """syntax = "proto3";
package shop;
enum Kind { NONE = 0; click = 1; view = 2; }
message Meta { string kind = 7; string note = 1; }
message Coded { Kind kind = 2; }
message Event { message Inner { int32 n = 1; Meta meta = 2; } int64 n = 1; optional Meta meta = 3; }
message Other { repeated string skipped = 9; int32 n = 1; optional Coded meta = 4; }
"""
MORE = "message More { int32 n = 1; }\n"


def _meta(kind: Any) -> Row:
    return {"type": "record", "name": "Meta", "fields": [{"name": "kind", "type": kind}]}


def avro(registered: Registered) -> list[Write]:
    """Writers of one field as an enum in an optional record, as a text, and as either."""
    shapes = [
        registered.avro_writer({"n": "int", "meta": ["null", _meta(ENUM)]}),
        registered.avro_writer({"note": "string", "meta": _meta(["null", "string"]), "n": "int"}),
        registered.avro_writer(
            {"meta": ["null", "long", _meta(["long", "string"])], "n": "long", "more": "boolean"}
        ),
    ]

    def first(n: int, kind: str | None) -> bytes:
        return shapes[0]({"n": n, "meta": kind and {"kind": kind}})

    def second(n: int, kind: str | None) -> bytes:
        return shapes[1]({"n": n, "meta": {"kind": kind}, "note": "x" * n})

    def third(n: int, kind: str | None) -> bytes:
        return shapes[2]({"n": n, "meta": 5 if kind is None else {"kind": kind}, "more": True})

    return [first, second, third]


def protobuf(registered: Registered) -> list[Write]:
    """Writers of one field as a text and as an enum, the last two in types of one file."""
    files = {"Event": PROTO, "Other": PROTO + MORE, "Event.Inner": PROTO + MORE}
    shapes = [registered.protobuf_writer(text, {}, f"shop.{name}") for name, text in files.items()]

    def writer(shape: Callable[[Row], bytes]) -> Write:
        def write(n: int, kind: str | None) -> bytes:
            return shape({"n": n, **({} if kind is None else {"meta": {"kind": kind}})})

        return write

    return [writer(shape) for shape in shapes]


def jsonschema(registered: Registered) -> list[Write]:
    """Writers of one field by several schemas; the tables' columns come from what was written."""
    shapes = [
        registered.json_writer({"n": {"type": "integer"}, f"f{more}": {"type": "string"}})
        for more in range(3)
    ]

    def writer(shape: Callable[[Row], bytes]) -> Write:
        return lambda n, kind: shape({"n": n, "meta": {"kind": kind}})

    return [writer(shape) for shape in shapes]


FORMATS: Mapping[str, Callable[[Registered], list[Write]]] = {
    "avro": avro,
    "protobuf": protobuf,
    "jsonschema": jsonschema,
}


@dataclass
class Kinds:
    """What is written, and what each table has to hold."""

    registered: Registered
    expected: dict[str, dict[Position, Row]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        program = self.registered.program
        text = ROUTING.replace("TOPIC", self.registered.topic)
        program.routing = text.replace("TABLE", program.table)

    def write(self, write: Write, count: int, *kinds: str | None) -> None:
        first = self.registered.count
        numbers = range(first, first + count)
        self.registered.write(*(write(n, kinds[n % len(kinds)]) for n in numbers))
        for n in numbers:
            name = kinds[n % len(kinds)] or "rest"
            self.expected.setdefault(name, {})[(0, n)] = {"n": n}

    def until_read(self, run: Running) -> Row:
        def read(report: Row) -> bool:
            tables = report.get("tables", ())
            # Of the one that is furthest behind.
            whole = at(report) == {0: self.registered.count}
            owned = [one for one in tables if one["epoch"] and not one["lag_total"]]
            return whole and len(owned) == len(tables) == len(self.expected)

        return run.until(read, "all read")

    def rows(self, name: str) -> list[Row]:
        location = self.registered.program.metadata_location(
            f"{self.registered.program.table}_{name}"
        )
        return read_by_metadata(location)

    def check(self) -> None:
        for name, rows in self.expected.items():
            assert_exactly_once(self.rows(name), rows)


@pytest.fixture
def world(
    tmp_path: Path, kafka_bootstrap: str, schema_registry: str, rest_catalog: CatalogAt
) -> Callable[[str], Kinds]:
    def make(kind: str) -> Kinds:
        rest_catalog.clear_faults()
        registered = Registered(tmp_path, kafka_bootstrap, schema_registry, kind)
        registered.program.rest = rest_catalog
        return Kinds(registered)

    return make


@pytest.mark.parametrize("kind", FORMATS)
def test_framed_records_go_to_tables_by_a_field_also_after_kills(
    world: Callable[[str], Kinds], kind: str
) -> None:
    kinds = world(kind)
    writers = FORMATS[kind](kinds.registered)
    for turn in range(3):
        for write in writers:
            kinds.write(write, 60, "click", "view", None)
        with running(kinds.registered.program) as run:
            kinds.until_read(run)
            if turn < 2:
                run.kill()
            else:
                run.drain()
    kinds.check()
    # What cannot be read goes where records without a value go, with its reason.
    others = ("click",) if kind == "jsonschema" else ()
    first = kinds.registered.count
    whole = writers[0](0, "click")
    unknown = b"\0\x7f\xff\xff\xff" + whole[5:]
    kinds.registered.write(whole[:-1], unknown, b"\x07" + whole[1:], b"", None, whole)
    kinds.expected["rest"][(0, first + 4)] = {"n": None}
    kinds.expected["click"][(0, first + 5)] = {"n": 0}
    with running(kinds.registered.program) as run:
        kinds.until_read(run)
        run.drain()
    kinds.check()
    letters = {name: kinds.rows(f"{name}__dead_letters") for name in ("rest", *others)}
    codes = {
        name: {letter["offset"] - first: letter["code"] for letter in some}
        for name, some in letters.items()
    }
    cut = {"avro": "avro.truncated", "protobuf": "protobuf.truncated", "jsonschema": "json.syntax"}
    rest = {0: cut[kind], 1: "registry.unknown_id", 2: "frame.magic", 3: "frame.short"}
    # JSON says what it says, whatever its schema.
    told = {name: {1: rest.pop(1)} for name in others}
    assert codes == {"rest": rest, **told}


@pytest.mark.parametrize("kind", ["avro", "protobuf"])
def test_records_wait_for_the_registry_and_go_to_no_other_table(
    world: Callable[[str], Kinds], kind: str, stack: Stack
) -> None:
    kinds = world(kind)
    first, second, third = FORMATS[kind](kinds.registered)
    # Their schemas are registered now, and not known to the run.
    early, later = second(3, "view"), third(4, "view")
    kinds.write(first, 3, "click")
    environ = {"K2I_KAFKA_FORMAT_LATEST_ON_STARTUP": "false"}
    program = kinds.registered.program

    def held(report: Row) -> bool:
        return "registry" in report["components"] and report["status"] == "degraded"

    with running(program, environ=environ) as run:
        kinds.until_read(run)
        stack.kill("apicurio")
        kinds.registered.write(early, later, first(5, "click"))
        page = run.until(held, "missing the registry")
        assert "schema registry at http" in page["components"]["registry"]["message"]
        assert at(page) == {0: 3}
        run.kill()
    # Without the registry nothing of it is known, nor lost; what is known goes on.
    with running(program, environ=environ) as run:
        page = run.until(held, "missing the registry")
        assert [one["table"] for one in page["tables"]] == [f"tests.{program.table}_click"]
        stack.restart("apicurio")
        kinds.expected |= {"view": {(0, 3): {"n": 3}, (0, 4): {"n": 4}}}
        kinds.expected["click"][(0, 5)] = {"n": 5}
        kinds.until_read(run)
        run.drain()
    kinds.check()
    assert program.load_table(f"{program.table}_rest") is None


def test_a_schema_that_becomes_known_between_two_readings_moves_no_record(
    world: Callable[[str], Kinds],
) -> None:
    kinds = world("avro")
    program = kinds.registered.program
    program.routing += SLOW.replace("VALUE", "click")
    schema = fastavro.parse_schema(
        {"type": "record", "name": "E", "fields": [
            {"name": "n", "type": "int"}, {"name": "meta", "type": ["null", _meta("string")]},
        ]}
    )  # fmt: skip

    def writer(schema_id: int) -> Write:
        def write(n: int, kind: str | None) -> bytes:
            out = io.BytesIO()
            fastavro.schemaless_writer(out, schema, {"n": n, "meta": kind and {"kind": kind}})
            return frame(schema_id, out.getvalue())

        return write

    with FakeRegistry() as registry:
        program.environ |= {
            "K2I_KAFKA_FORMAT_SCHEMA_REGISTRY_URL": registry.url,
            "K2I_KAFKA_FORMAT_LATEST_ON_STARTUP": "false",
        }
        known = registry.add("s", json.dumps(schema))
        write, early = writer(known), writer(known + 1)
        kinds.write(write, 5, "click")
        # Nobody can tell yet that they are clicks.
        kinds.registered.write(*(early(n, "click") for n in range(5, 8)))
        kinds.write(write, 2, None)

        def alone(report: Row) -> bool:
            tables = {one["table"].rpartition("_")[2]: one for one in report.get("tables", ())}
            rest, click = (tables.get(name, {}) for name in ("rest", "click"))
            return bool(click.get("epoch")) and rest.get("records", {}).get("committed_rows") == 2

        with running(program) as run:
            run.until(alone, "one table is far behind the other")
            run.kill()
        assert program.load_table(f"{program.table}_click") is not None
        assert kinds.rows("click") == []
        assert registry.add("s2", json.dumps(schema)) == known + 1
        kinds.write(early, 4, "click")
        with running(program) as run:
            kinds.until_read(run)
            run.drain()
    kinds.check()
    letters = kinds.rows("rest__dead_letters")
    assert sorted(letter["offset"] for letter in letters) == [5, 6, 7]
    assert {letter["code"] for letter in letters} == {"registry.unknown_id"}


def test_one_table_of_many_can_be_looked_at(world: Callable[[str], Kinds]) -> None:
    kinds = world("avro")
    kinds.write(avro(kinds.registered)[0], 9, "click", "view", None)
    with running(kinds.registered.program) as run:
        kinds.until_read(run)
        run.drain()
    program = kinds.registered.program
    sets = ("--set", f"routing.topic={kinds.registered.topic}", "--set", "routing.value=view")
    query = f"SELECT count(*) FROM {program.table}_view"
    code, output = finished(program.command("query", query, *sets))
    assert code == 0, output
    assert "3" in output

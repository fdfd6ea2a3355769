"""Two writers that change one table's schema at the same time: they converge, and ids stay."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.schema import Schema
from pyiceberg.types import LongType

from k2i_tasks.config import Config
from k2i_tasks.iceberg.catalog import guard_commits, open_catalog
from k2i_tasks.iceberg.evolution import evolve
from k2i_tasks.iceberg.schema import create_table
from tests.integration.test_end_to_end import unique
from tests.program import Program
from tests.running import Running, running
from tests.support import CatalogAt, create_topic, produce, read_by_metadata

pytestmark = pytest.mark.integration

FLOWS = 2
ROUNDS = 12


def ids(schema: Schema) -> dict[str, int]:
    """Field id by full name, parts of lists and maps included."""
    names = schema._lazy_id_to_name
    return {name: number for number, name in names.items()}


def config_of(catalog: CatalogAt, table: str) -> Config:
    iceberg = {
        "catalog_type": "rest",
        "rest_uri": catalog.uri,
        "warehouse_path": catalog.warehouse,
        "database_name": "tests",
        "table_name": table,
    }
    kafka = {"bootstrap_servers": ["127.0.0.1:1"], "topic": "events", "consumer_group": "g"}
    return Config.model_validate({"kafka": kafka, "iceberg": iceberg})


def columns(flow: int, turn: int) -> pa.Schema:
    """Those of all flows, wider with each turn, and some of this one, also nested."""
    inner = [("n", pa.int32() if turn < ROUNDS // 2 else pa.int64())]
    own = [(f"f{flow}_{number}", pa.string()) for number in range(turn)]
    both = [(f"both_{number}", pa.float64()) for number in range(turn)]
    price = pa.decimal128(10 + turn, 2)
    return pa.schema(
        [
            ("n", pa.int64()),
            ("price", price),
            ("s", pa.struct(inner + own)),
            ("l", pa.list_(pa.struct(inner + both))),
            ("m", pa.map_(pa.string(), pa.struct(inner + own + both))),
            *own,
            *both,
        ]
    )


def test_two_flows_that_change_a_schema_at_once_converge_and_field_ids_never_change(
    rest_catalog: CatalogAt,
) -> None:
    config = config_of(rest_catalog, unique("flows").replace("-", "_"))
    name = config.iceberg.identifier

    def catalog() -> Catalog:
        return guard_commits(open_catalog(config.iceberg, {}))

    before = ids(create_table(catalog(), name, columns(0, 0), config).schema())
    together = threading.Barrier(FLOWS)
    seen: list[dict[str, int]] = []
    failures: list[BaseException] = []

    def flow(number: int) -> None:
        try:
            ours = catalog()
            for turn in range(1, ROUNDS):
                together.wait(60)
                seen.append(ids(evolve(ours, name, columns(number, turn)).schema()))
        except BaseException as error:
            failures.append(error)
            together.abort()

    threads = [threading.Thread(target=flow, args=(number,)) for number in range(FLOWS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    table = catalog().load_table(name)
    after = ids(table.schema())
    for earlier in [before, *seen]:
        assert earlier.items() <= after.items()
    assert len(set(after.values())) == len(after)
    for number in range(FLOWS):
        for column in columns(number, ROUNDS - 1).names:
            assert column in after
    assert table.schema().find_type("s.n") == LongType()
    assert str(table.schema().find_type("price")) == f"decimal({10 + ROUNDS - 1}, 2)"


@pytest.fixture
def programs(kafka_bootstrap: str, rest_catalog: CatalogAt, tmp_path: Path) -> list[Program]:
    """Two flows of two topics into one table."""
    table = unique("shared").replace("-", "_")
    made = []
    for number in range(FLOWS):
        topic = unique(f"flow{number}")
        create_topic(kafka_bootstrap, topic, partitions=1)
        folder = tmp_path / str(number)
        folder.mkdir()
        environ = {"K2I_ICEBERG_TABLE_NAME": table, "K2I_ICEBERG_SINK": f"flow{number}"}
        made.append(Program(folder, kafka_bootstrap, topic, rest=rest_catalog, environ=environ))
    return made


def send(program: Program, documents: list[dict[str, Any]]) -> None:
    payloads = [json.dumps(each).encode() for each in documents]
    produce(program.bootstrap, program.topic, payloads, partition_of=lambda _number: 0)


def until_committed(run: Running, offset: int) -> None:
    """Waits until the table records this offset of its partition."""

    def there(report: dict[str, Any]) -> bool:
        return [each["committed"] for each in report["partitions"]] == [offset]

    run.until(there, f"{offset} committed")


def test_two_runs_that_bring_fields_at_once_even_of_other_types_lose_nothing(
    programs: list[Program],
) -> None:
    table = programs[0].environ["K2I_ICEBERG_TABLE_NAME"]
    extra = '[schema_evolution]\non_breaking_change = "variant-column"'
    for program in programs:
        program.extra = extra
    with ExitStack() as stack:
        runs = [stack.enter_context(running(programs[0]))]
        send(programs[0], [{"id": 0}])
        runs[0].until_committed(1)
        runs.append(stack.enter_context(running(programs[1])))
        send(programs[1], [{"id": 0}])
        runs[1].until_committed(1)
        for turn in range(1, 6):
            # Both at once: each its own field, one that both have, and one of two types.
            for number, program in enumerate(programs):
                drifting = turn if number else f"text {turn}"
                send(
                    program,
                    [{"id": turn, f"own{number}_{turn}": turn, "both": 0.5, f"x{turn}": drifting}],
                )
            for run in runs:
                until_committed(run, turn + 1)
        for run in runs:
            run.drain()
    location = programs[0].metadata_location(table)
    rows = read_by_metadata(location)
    by_topic = {program.topic: n for n, program in enumerate(programs)}
    assert len(rows) == FLOWS * 6
    for row in rows:
        number, turn = by_topic[row["_kafka_topic"]], row["id"]
        assert row["_kafka_offset"] == turn
        if not turn:
            continue
        assert row[f"own{number}_{turn}"] == turn
        assert row["both"] == 0.5
        drifting = turn if number else f"text {turn}"
        found = row[f"x{turn}"]
        if found is None:
            found = json.loads(row[f"x{turn}__string"])
        assert found == drifting
    loaded = programs[0].load_table(table)
    assert loaded is not None
    assert len(set(ids(loaded.schema()).values())) == len(ids(loaded.schema()))

"""The benchmarks of curves: how figures are made of what was seen, what is drawn of them."""

from __future__ import annotations

import json
import os
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import (
    drawing,
    encodings,
    formats,
    limits,
    memory,
    meter,
    parts,
    scaling,
    shapes,
    timeline,
)
from benchmarks import topic as topics
from benchmarks.ingested import Cost
from benchmarks.peers import chain
from k2i_tasks.codecs import Decoder
from k2i_tasks.codecs.base import decoded_whole
from k2i_tasks.config import load_config
from k2i_tasks.kafka.orders import OrderPool
from k2i_tasks.wiring_decoders import Decoders
from tests.schema_registry import FakeRegistry
from tests.unit.codec_batches import batch_of

CORES = 2
TOPIC = topics.Topic("", "events", 500, 288.0, {})


def point(value: int, cpu_per_row: float, size: int, rate: int = 1_000) -> dict[str, Any]:
    return {
        "value": value,
        "messages": 1,
        "bytes_per_message": size,
        "rows_per_second": rate,
        "megabytes_per_second": rate * size / 1e6,
        "cpu_seconds_per_million_rows": cpu_per_row,
        "cpu_seconds_per_gigabyte": cpu_per_row / size * 1e3,
        "peak_rss_mb": 1,
        "runs": [],
        "table_equals_topic": True,
    }


def test_a_cliff_is_worse_per_byte_and_per_row() -> None:
    # Ten times the bytes may cost ten times as much a row, and as much a row ten times as much a
    # byte; more than three times both may not.
    by_bytes = [point(100, 1.0, 100), point(1_000, 10.0, 1_000), point(10_000, 100.0, 10_000)]
    by_rows = [point(100, 1.0, 100), point(1_000, 1.0, 1_000), point(10_000, 1.0, 10_000)]
    assert scaling.cliffs(by_bytes) == scaling.cliffs(by_rows) == []
    steep = [point(100, 1.0, 100), point(1_000, 40.0, 1_000), point(10_000, 100.0, 10_000)]
    assert scaling.cliffs(steep) == [1_000]
    slow = [point(1, 1.0, 100), point(2, 1.0, 100, rate=300), point(3, 1.0, 100)]
    assert scaling.cliffs(slow) == [2]


def test_a_slow_point_of_few_bytes_has_a_rate_above_nothing() -> None:
    cost = Cost(60.0, 120.0, 1.0, 100.0, {})
    told = {"value": 1, **scaling.told(TOPIC, [cost])}
    assert told["megabytes_per_second"] > 0
    assert scaling.cliffs([told, {**told, "value": 2}]) == []


#: Threads of which two are of one stage.
THREADS = {"client": ("a", "b"), "main": ("c",), "files": ("d",)}


@given(
    moments=st.lists(
        st.lists(st.sampled_from("abcd"), max_size=CORES, unique=True), min_size=1, max_size=40
    )
)
def test_the_time_in_which_two_ran_is_within_its_bounds(moments: list[list[str]]) -> None:
    """Looks at a machine of which it is known what ran in each of its moments of 10 ms."""
    looks = [moments[at : at + 5] for at in range(0, len(moments), 5)]
    spent = {
        stage: [[0.01 * sum(name in moment for moment in look) for look in looks] for name in names]
        for stage, names in THREADS.items()
    }
    least, most = timeline.at_once(spent, [0.01 * len(look) for look in looks], CORES)
    stage_of = {name: stage for stage, names in THREADS.items() for name in names}
    true = 0.01 * sum(len({stage_of[name] for name in moment}) > 1 for moment in moments)
    assert least - 1e-9 <= true <= most + 1e-9


def test_a_thread_is_of_the_stage_that_its_name_says() -> None:
    names = timeline.names_in(["7 k2i-flush", "8 k2i-commit", "9 k2i-upload_0", "10 k2i-http-a b"])
    assert names[10] == "k2i-http-a b"
    stages = [timeline.stage_of("python", names.get(number)) for number in (7, 8, 9, 10, 11)]
    assert stages == ["files", "commit", "files", "rest", "native"]
    assert timeline.stage_of("rdk:broker1", None) == "client"
    assert set(stages) <= timeline.STAGES.keys()


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the kernel does not tell")
def test_looks_see_the_thread_that_works() -> None:
    looks, done, numbers = timeline.Looks(), threading.Event(), list[int]()

    def work() -> None:
        numbers.append(threading.get_native_id())
        while not done.is_set():
            sum(range(1_000))

    looks.look(os.getpid())
    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        looks.look(os.getpid())
        if numbers and looks.threads.get(numbers[0], ("", [0.0]))[1][-1] > 0.05:
            break
    done.set()
    thread.join()
    looks.look(os.getpid())
    spent = looks.by_stage(os.getpid(), {numbers[0]: "k2i-flush"})
    (worked,) = spent["files"]
    assert worked[0] == 0
    assert worked[-1] > 0.05
    for past in (past for pasts in spent.values() for past in pasts):
        assert len(past) == len(looks.at)
        assert all(a <= b for a, b in pairwise(past))


@given(
    looks=st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), max_size=60),
    most=st.integers(1, 20),
)
def test_thinning_keeps_the_peak(looks: list[tuple[float, float]], most: int) -> None:
    kept = memory.thinned(looks, most)
    assert len(kept) == min(most, len(looks))
    assert set(kept) <= set(looks)
    assert max((b for _a, b in kept), default=0) == max((b for _a, b in looks), default=0)


def test_the_memory_of_a_process_is_seen_while_it_lives() -> None:
    assert meter.resident_mb(os.getpid()) > 1
    assert meter.resident_mb(2**22 + 1) == 0


@pytest.mark.parametrize("shape", [shapes.Shape(5, 400), shapes.Shape(12)])
def test_a_shape_knows_what_its_columns_come_to(shape: shapes.Shape, tmp_path: Path) -> None:
    bodies, messages = shapes.Bodies(shape), 3_000
    events = [json.loads(value) for _key, value in bodies.events(messages)]
    sizes = {len(value) for _key, value in bodies.events(messages)}
    assert len(events[0]) == shape.columns
    if shape.message_bytes:
        assert max(abs(size - shape.message_bytes) for size in sizes) < 40
    pq.write_table(pa.Table.from_pylist(events), tmp_path / "0.parquet")
    queries = {name: shapes.SUMS[kind].format(name) for name, kind in shape.names.items()}
    stamps = [name for name, kind in shape.names.items() if kind == "time"]
    queries |= {name: f"sum(epoch_ms(CAST({name} AS TIMESTAMPTZ)))" for name in stamps}
    source, sums = f"read_parquet('{tmp_path}/*.parquet')", bodies.sums(messages)
    assert topics.summed(source, "event_id", queries, sums, messages)["equals_topic"]
    changed = {**sums, "c001": sums["c001"] + 1}
    found = topics.summed(source, "event_id", queries, changed, messages)
    assert (found["equals_topic"], found["wrong_columns"]) == (False, ["c001"])


def test_what_the_chain_writes_is_compared_with_the_topic(tmp_path: Path) -> None:
    pool = OrderPool(7, topics.POOL)
    values = [value for _key, value in pool.events(0, 500, 1.7e9)]
    sums = topics.sums_of(pool, 500)
    topic = topics.Topic("", "events", 500, 1.0, sums)
    chain.write([chain.typed(values[:200]), chain.typed(values[200:])], tmp_path, 0)
    assert topics.compared_files(topic, tmp_path)["equals_topic"]
    chain.write([chain.typed(values[:1])], tmp_path, 1)
    assert not topics.compared_files(topic, tmp_path)["equals_topic"]


def test_each_curve_is_drawn(tmp_path: Path) -> None:
    spread = {"min": 1.0, "median": 2.0, "max": 3.0}
    points = [point(1, 1.0, 100), point(10, 9.0, 100)]
    curve = {"title": "columns", "per_byte": True, "points": points, "cliffs": [10]}
    machine = {"cpus": CORES, "load_average": [0.0, 0.0, 0.0], "messages": 10}
    drawing.scaling(
        {"megabytes": 1, "curves": {"a": curve, "b": {**curve, "per_byte": False}}},
        tmp_path / "scaling.svg",
    )
    part = {"title": "x", "cpu_seconds_per_million_rows": spread, "k2i_cpu_ratio": spread}
    drawing.limits({"parts": dict.fromkeys(limits.TITLES, part)}, tmp_path / "limits.svg")
    stream = {
        "cpu_seconds_per_million_rows": spread,
        "decode_cpu_seconds_per_million_rows": spread,
        "rows_per_second": 1_000,
    }
    names = [formats.Stream(kind, spoilt, TOPIC).name for kind, spoilt in formats.STREAMS]
    drawing.formats({"streams": dict.fromkeys(names, stream)}, tmp_path / "formats.svg")
    looked = timeline.over_time(
        [0.0, 1.0, 2.0], {stage: [[0.0, 0.5, 0.7]] for stage in timeline.STAGES}, 0.0, 2.0
    )
    drawing.timeline({**machine, **looked}, timeline.STAGES, tmp_path / "timeline.svg")
    resident = {"seconds": [0.0, 1.0], "rss_mb": [100.0, 120.0], "peak_rss_mb": 130.0}
    about = {"bound_mb": 550.0, "buffer_mb": 100, "partitions": 64, "table_partitions": 256}
    drawing.memory({**machine, **resident, **about}, tmp_path / "memory.svg")
    assert {file.name for file in tmp_path.iterdir() if file.stat().st_size > 1_000} == {
        f"{name}.svg" for name in ("scaling", "limits", "formats", "timeline", "memory")
    }


def test_each_part_has_a_title() -> None:
    assert parts.PARTS.keys() < limits.TITLES.keys()


def test_an_event_is_the_same_in_every_format_and_a_dirty_stream_is_bad_at_even_steps(
    tmp_path: Path,
) -> None:
    pool = OrderPool(3, 10)
    with FakeRegistry() as registry:
        made = encodings.encoders(registry)
        assert {kind for kind, _spoilt in formats.STREAMS} == made.keys()
        config = {
            "kafka.format.schema_registry_url": registry.url,
            "transaction_log.log_dir": str(tmp_path),
        }
        rows = {}
        for kind in ("json", "jsonschema", "avro", "protobuf"):
            events = encodings.written(pool.events(0, 2_000, 1e9), made[kind], "cut")
            decoder = decoder_of(kind, config)
            decoded = decoded_whole(decoder, batch_of([value for _key, value in events]), 0.0)
            assert [letter.offset for letter in decoded.dead_letters] == [999, 1999]
            rows[kind] = [
                {name: row[name] for name in topics.SCHEMA.names}
                for row in decoded.table.to_pylist()
            ]
        assert rows["json"] == rows["jsonschema"] == rows["avro"] == rows["protobuf"]


def decoder_of(kind: str, changes: dict[str, Any]) -> Decoder:
    overrides = {
        **changes,
        "kafka.bootstrap_servers": ["127.0.0.1:9092"],
        "kafka.topic": "orders",
        "kafka.consumer_group": "g",
        "kafka.format.type": kind,
        "iceberg.catalog_type": "rest",
        "iceberg.rest_uri": "http://127.0.0.1:1",
        "iceberg.warehouse_path": "file:///w",
        "iceberg.database_name": "d",
        "iceberg.table_name": "t",
    }
    config = load_config(None, environ={}, overrides=overrides)
    return Decoders(config, {}).decoder(None)

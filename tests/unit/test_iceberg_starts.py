"""Where reading began is told by the first claim of a topic, and by no later one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from k2i_tasks.errors import IntegrityError
from k2i_tasks.iceberg.committer import Committer
from k2i_tasks.iceberg.schema import create_table
from k2i_tasks.iceberg.starts import start_key, starts
from k2i_tasks.iceberg.state import SinkState
from k2i_tasks.types import TopicPartition
from tests.iceberg_tables import NAME, catalog_of, config_at

SCHEMA = pa.schema([pa.field("n", pa.int64())])
ORDERS_0, ORDERS_1 = TopicPartition("orders", 0), TopicPartition("orders", 1)


def committer(folder: Path, owner: str) -> Committer:
    catalog = catalog_of(config_at(folder))
    create_table(catalog, NAME, SCHEMA, config_at(folder))
    return Committer(catalog, NAME, sink="main", branch="main", owner=owner)


def recorded_starts(one: Committer) -> dict[str, dict[str, int]]:
    return starts(one.look().table.metadata, "main")


def test_the_first_claim_tells_where_reading_began_and_later_ones_change_nothing(
    tmp_path: Path,
) -> None:
    first = committer(tmp_path, "first")
    state = first.claim(SinkState(), {ORDERS_0: 17})
    assert recorded_starts(first) == {"orders": {"0": 17}}
    second = committer(tmp_path, "second")
    second.claim(state, {ORDERS_0: 900, ORDERS_1: 0})
    assert recorded_starts(second) == {"orders": {"0": 17}}


def test_a_table_of_an_older_version_gets_no_start_that_would_be_wrong(tmp_path: Path) -> None:
    one = committer(tmp_path, "one")
    state = one.claim(SinkState(), {ORDERS_0: 17})
    with one.look().table.transaction() as change:
        change.remove_properties(start_key("main"))
    two = committer(tmp_path, "two")
    two.claim(replace(state, offsets={ORDERS_0: 40}), {ORDERS_1: 0})
    assert recorded_starts(two) == {}


def test_a_second_topic_of_the_sink_is_added_to_the_first(tmp_path: Path) -> None:
    one = committer(tmp_path, "one")
    state = one.claim(SinkState(), {ORDERS_0: 17})
    two = committer(tmp_path, "two")
    two.claim(state, {TopicPartition("refunds", 0): 5})
    assert recorded_starts(two) == {"orders": {"0": 17}, "refunds": {"0": 5}}


def test_a_start_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    one = committer(tmp_path, "one")
    with one.look().table.transaction() as change:
        change.set_properties({start_key("main"): '{"orders": 7}'})
    with pytest.raises(IntegrityError, match=r"k2i\.main\.start cannot be read"):
        recorded_starts(one)

"""Sorted runs of hashes: whatever is added, merged and dropped, a row in memory is found."""

from __future__ import annotations

import random

import numpy as np
import pytest

from k2i_tasks.buffer.key_index import KeyIndex

WRAP = 1 << 32


def hashed(key: int) -> int:
    return (key * 0x9E3779B97F4A7C15) % (1 << 64)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("start", [0, WRAP - 500])
def test_every_row_in_memory_is_found_and_no_other(seed: int, start: int) -> None:
    """Also where row numbers go beyond 32 bits."""
    chosen = random.Random(seed)
    index, first, end = KeyIndex(), start, start
    keys: dict[int, int] = {}
    for _ in range(120):
        rows = chosen.randrange(0, 40)
        fresh = {end + n: chosen.randrange(30) for n in range(rows) if chosen.random() < 0.9}
        hashes = np.array([hashed(key) for key in fresh.values()], np.uint64)
        index.add(hashes, np.array(list(fresh), np.int64), end, end + rows)
        keys.update(fresh)
        end += rows
        if chosen.random() < 0.3:
            first = chosen.randrange(first, end + 1)
            index.drop_below(first)
    for key in range(30):
        wanted = [row for row, each in keys.items() if each == key and row >= first]
        assert index.rows(hashed(key), first, end) == wanted


def test_runs_are_few_and_eight_bytes_a_row() -> None:
    index = KeyIndex()
    for number in range(500):
        rows = np.arange(number * 100, number * 100 + 100, dtype=np.int64)
        hashes = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        index.add(hashes, rows, number * 100, number * 100 + 100)
    assert index.nbytes == 8 * 50_000
    assert len(index._runs) < 12


def test_what_left_memory_leaves_the_index() -> None:
    index = KeyIndex()
    rows = np.arange(1000, dtype=np.int64)
    index.add(rows.astype(np.uint64) << np.uint64(32), rows, 0, 1000)
    index.drop_below(900)
    assert index.nbytes == 8 * 100
    index.drop_below(1000)
    assert index.nbytes == 0

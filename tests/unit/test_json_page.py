"""What is searched in a page of payloads, and how long it is kept."""

from __future__ import annotations

import weakref
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from k2i_tasks.codecs import json_page
from k2i_tasks.codecs.json_foresight import Foresight
from k2i_tasks.codecs.json_pace import PART_RECORDS_MAX, WIDE_RECORDS, Pace
from k2i_tasks.codecs.json_page import Page

SIZE_MAX = 1 << 20
TEXTS = st.text('ab:"\\{', max_size=60).map(lambda text: b'{"x":' + text.encode() + b"}")


@given(st.lists(TEXTS, min_size=1), st.lists(st.text('ab:"{', min_size=2, max_size=4), min_size=1))
def test_pieces_of_payloads_are_found_whatever_block_they_are_in(
    payloads: list[bytes], needles: list[str]
) -> None:
    page = Page(payloads, SIZE_MAX)
    sought = [needle.encode() for needle in needles]
    with patch.object(json_page, "_BLOCK_BYTES", 16):
        found = page.holding(sought, len(payloads))
    assert found == [
        [at for at, payload in enumerate(payloads) if needle in payload] for needle in sought
    ]


def test_what_is_in_more_payloads_than_asked_for_is_found_in_none() -> None:
    page = Page([b'{"ab":1}'] * 5, SIZE_MAX)
    assert page.holding([b"ab", b"zz"], 4) == [[], []]
    assert page.holding([b"ab", b"zz"], 5) == [[0, 1, 2, 3, 4], []]


def test_payloads_that_cannot_be_read_are_no_samples_of_a_member() -> None:
    page = Page([b'{"a":1,"b":"\xff"}', b'{"a":2}', b'{"a":3}'], SIZE_MAX)
    assert page.containing(b'"a"', 2) == [b'{"a":2}', b'{"a":3}']
    page.blank([1])
    assert page.containing(b'"a"', 2) == [b'{"a":2}', b'{"a":3}']


def test_a_page_is_let_go_of_once_it_was_read() -> None:
    foresight, page = Foresight(), Page([b'{"a":1}'], SIZE_MAX)
    gone = weakref.ref(page)
    foresight.begin(page)
    foresight.end({})
    del page
    assert gone() is None


@given(st.lists(TEXTS, min_size=1, max_size=50), st.integers(1, 9), st.integers(1, 200), st.data())
def test_shares_follow_one_another_and_are_about_as_large(
    payloads: list[bytes], most: int, bytes_min: int, data: st.DataObject
) -> None:
    page = Page(payloads, SIZE_MAX)
    start = data.draw(st.integers(0, len(payloads) - 1))
    end = data.draw(st.integers(start + 1, len(payloads)))
    shares = page.shares(start, end, most, bytes_min)
    assert 1 <= len(shares) <= most
    assert [low for low, _ in shares] == [start, *(high for _, high in shares[:-1])]
    assert shares[-1][1] == end
    assert all(low < high for low, high in shares)
    sizes = [sum(len(text) + 1 for text in payloads[low:high]) for low, high in shares]
    longest = max(len(text) + 1 for text in payloads[start:end])
    enough = max(sum(sizes) / min(most, end - start), 2 * bytes_min)
    assert max(sizes) <= enough + 2 * longest


def test_pages_are_shared_out_until_one_is_refused_and_again_after_many_records() -> None:
    pace = Pace()
    assert pace.wide
    pace.refused()
    assert not pace.wide
    assert pace.part_records == PART_RECORDS_MAX // 2
    read = 0
    while not pace.wide:
        assert read < 2 * WIDE_RECORDS
        pace.read(pace.part_records)
        read += pace.part_records
    assert read >= WIDE_RECORDS
    assert pace.part_records == PART_RECORDS_MAX

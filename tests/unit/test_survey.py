"""Manifests are read a few at a time, so that few entries are in memory at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pyiceberg.manifest import ManifestFile

from k2i_tasks.iceberg.maintenance.survey import ENTRIES_AT_ONCE, READERS, _rounds, live_files


def manifest(files: int | None) -> ManifestFile:
    # Format version 1 may not say.
    return ManifestFile.from_args(
        manifest_path=f"m-{files}",
        added_files_count=files,
        existing_files_count=None if files is None else 0,
    )


@given(st.lists(st.none() | st.integers(0, 3 * ENTRIES_AT_ONCE)))
def test_all_are_read_in_order_and_few_entries_at_once(files: list[int | None]) -> None:
    manifests = [manifest(count) for count in files]
    rounds = list(_rounds(manifests))
    assert [each for some in rounds for each in some] == manifests
    for some in rounds:
        assert 1 <= len(some) <= READERS
        assert len(some) == 1 or sum(live_files(each) or 0 for each in some) <= ENTRIES_AT_ONCE

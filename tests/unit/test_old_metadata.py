"""Old metadata files after a commit to a REST catalog, which deletes them as a rule itself."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pyiceberg.table import Table

from k2i_tasks.iceberg.catalog import TimedRestCatalog
from k2i_tasks.iceberg.files import local_path
from tests.upkeep import new_table, numbers

PROPERTIES = {
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "1",
}


def oldest(table: Table) -> Path:
    """The metadata file that the next commit drops from the log."""
    found = local_path(table.metadata.metadata_log[0].metadata_file)
    assert found is not None
    return found


@pytest.mark.parametrize("gone", [True, False])
def test_a_metadata_file_that_the_catalog_has_deleted_is_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    table = new_table(tmp_path, properties=PROPERTIES)
    table.append(numbers(1))
    table.append(numbers(2))
    path, base = oldest(table), table.metadata
    # As with a REST catalog: what the client does is apart from what the catalog does.
    monkeypatch.setattr(table.catalog, "_delete_old_metadata", lambda *_what: None)
    table.append(numbers(3))
    assert path.exists()
    if gone:
        path.unlink()
    with caplog.at_level(logging.WARNING):
        TimedRestCatalog._delete_old_metadata(table.io, base, table.metadata)
    assert not path.exists()
    assert not caplog.records

"""Orphan removal on a local disk: what nobody refers to and is old goes, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pyiceberg.exceptions import TableAlreadyExistsError
from pyiceberg.table import Table

from k2i_tasks import failpoints
from k2i_tasks.errors import (
    CommitStateUnknownError,
    ConfigError,
    IntegrityError,
    ServiceError,
    TransientError,
)
from k2i_tasks.iceberg.catalog import guard_commits
from k2i_tasks.iceberg.files import local_path
from k2i_tasks.iceberg.schema import create_table
from k2i_tasks.iceberg.writer import DataFileWriter
from tests.iceberg_tables import NAME, append, catalog_of, config_at
from tests.upkeep import (
    DAY,
    HandClock,
    aged,
    all_aged,
    assert_exact,
    fresh,
    lose_answer,
    metadata_files,
    new_table,
    numbers,
    on_disk,
    reached,
    removal,
    rewritten,
    values,
)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    made = new_table(tmp_path)
    rewritten(made, 2)
    return made


def folder_of(table: Table) -> Path:
    found = local_path(table.location())
    assert found is not None
    return found


def strays(table: Table, *names: str) -> list[Path]:
    """Files that nobody refers to, two days old, ten bytes each."""
    found = []
    for name in names:
        path = folder_of(table) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"0123456789")
        aged(path)
        found.append(path)
    return found


def test_what_nobody_refers_to_goes_and_all_else_stays(table: Table) -> None:
    all_aged(table)
    needed, before = reached(table), {one: values(table, one) for one in ids(table)}
    lost = strays(
        table, "data/a.parquet", "data/_kafka_topic=t/day=1/b.parquet", "metadata/m0.avro",
        "metadata/00001-x.metadata.json", "data/a.crc",
    )  # fmt: skip
    job = removal(table.catalog)
    planned = job.plan()
    assert all(path.exists() for path in lost)
    assert set(planned.paths) == {str(path) for path in lost}
    assert (planned.found, planned.bytes) == (5, 50)
    done = job.run()
    assert (done.found, done.removed, done.bytes, done.left) == (5, 5, 50, 0)
    assert done.listed == planned.listed == len(on_disk(table)) + len(metadata_files(table)) + 5
    assert not any(path.exists() for path in lost)
    assert on_disk(table) == needed
    assert all(Path(path).exists() for path in metadata_files(table))
    assert {one: values(table, one) for one in ids(table)} == before
    assert job.run().found == 0


def ids(table: Table) -> list[int]:
    return [one.snapshot_id for one in table.metadata.snapshots]


def test_young_and_hidden_files_stay(table: Table) -> None:
    young, hidden, *others = strays(
        table, "data/young.parquet", "data/_temporary/x.parquet", "metadata/.x.avro.crc",
        "metadata/version-hint.text", "elsewhere/x.parquet", "x.parquet",
    )  # fmt: skip
    aged(young, DAY - 60)
    assert removal(table.catalog).run().found == 0
    assert all(path.exists() for path in (young, hidden, *others))


@pytest.mark.parametrize("seconds", [0, -1, DAY - 1, float("nan")])
def test_a_bound_below_the_floor_is_refused(table: Table, seconds: float) -> None:
    with pytest.raises(ValueError, match="may still be committed"):
        removal(table.catalog, older_than_seconds=seconds)


def test_a_file_that_is_committed_while_the_listing_goes_on_stays(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    catalog = catalog_of(config)
    table = create_table(catalog, NAME, numbers().schema, config)
    (staged,) = DataFileWriter(table, config).write([numbers(1, 2)], batch_id="a")
    (lost,) = DataFileWriter(table, config).write([numbers(3)], batch_id="b")
    all_aged(table)
    other = catalog_of(config).load_table(NAME)
    with failpoints.armed("orphans.listed", lambda _: append(other, [staged])):
        assert removal(catalog).run().removed == 1
    assert not Path(lost.path.removeprefix("file://")).exists()
    assert values(fresh(table)) == [1, 2]
    assert_exact(fresh(table))


def test_a_file_that_is_staged_and_young_can_be_committed_afterwards(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    catalog = catalog_of(config)
    table = create_table(catalog, NAME, numbers().schema, config)
    (staged,) = DataFileWriter(table, config).write([numbers(1, 2)], batch_id="a")
    assert removal(catalog).run().found == 0
    append(table, [staged])
    assert values(fresh(table)) == [1, 2]


def test_what_a_failed_commit_wrote_is_removed_once_it_is_old(table: Table) -> None:
    before = values(table)
    catalog = table.catalog
    lose_answer(catalog, lands=False)
    guard_commits(catalog)
    with pytest.raises(CommitStateUnknownError):
        fresh(table).append(numbers(5))
    left = on_disk(table) - reached(table)
    assert {Path(path).suffix for path in left} == {".avro", ".parquet"}
    assert removal(catalog).run().found == 0
    all_aged(table)
    assert removal(catalog).run().removed == len(left)
    assert_exact(fresh(table))
    assert values(fresh(table)) == before


def test_old_metadata_files_that_the_log_does_not_name_go(tmp_path: Path) -> None:
    table = new_table(tmp_path, properties={"write.metadata.previous-versions-max": "3"})
    for number in range(8):
        table.append(numbers(number))
    all_aged(table)
    assert removal(table.catalog).run().removed == 5
    left = {str(path) for path in folder_of(table).rglob("*.metadata.json")}
    assert left == metadata_files(fresh(table))
    assert values(fresh(table)) == list(range(8))


def test_a_table_in_the_folder_of_another_is_refused_and_named(
    table: Table, tmp_path: Path
) -> None:
    (tmp_path / "apart").mkdir()
    (tmp_path / "warehouse/db/guest").symlink_to(folder_of(table))
    guest = new_table(tmp_path, ("db", "guest"))
    guest.append(numbers(1))
    all_aged(table)
    files = on_disk(table)
    with pytest.raises(IntegrityError, match=str(guest.metadata.table_uuid)) as caught:
        removal(table.catalog).run()
    assert "metadata.json" in caught.value.what
    assert on_disk(table) == files
    for path in folder_of(table).rglob("*.metadata.json"):
        if str(guest.metadata.table_uuid) in path.read_text():
            path.unlink()
    assert removal(table.catalog).run().removed > 0
    assert values(fresh(table)) == values(table)


def test_a_table_that_was_renamed_loses_nothing_to_its_successor(tmp_path: Path) -> None:
    kept = new_table(tmp_path)
    kept.append(numbers(1, 2))
    kept.catalog.rename_table(NAME, ("db", "kept"))
    table = new_table(tmp_path, properties={"write.metadata.previous-versions-max": "1"})
    assert folder_of(table) == folder_of(kept)
    for number in range(25):  # each leaves a metadata file, all newer than those of the other
        table.append(numbers(number))
    clock = HandClock()
    clock.now += 2 * DAY
    with pytest.raises(IntegrityError, match=str(kept.metadata.table_uuid)):
        removal(table.catalog, clock=clock).run()
    assert values(table.catalog.load_table(("db", "kept"))) == [1, 2]


def test_what_lost_a_race_to_create_the_table_is_no_other_table_and_stays(
    table: Table, tmp_path: Path
) -> None:
    with pytest.raises(TableAlreadyExistsError):
        new_table(tmp_path)
    all_aged(table)
    (lost,) = strays(table, "data/lost.parquet")
    files = {str(path) for path in folder_of(table).rglob("*.metadata.json")}
    assert len(files - metadata_files(table)) == 1
    assert removal(table.catalog).run().removed == 1
    assert not lost.exists()
    assert {str(path) for path in folder_of(table).rglob("*.metadata.json")} == files


def test_a_table_dropped_and_made_again_meanwhile_is_refused(table: Table, tmp_path: Path) -> None:
    all_aged(table)

    def make_again(_: str) -> None:
        table.catalog.drop_table(NAME)
        new_table(tmp_path)

    files = on_disk(table)
    with (
        failpoints.armed("orphans.listed", make_again),
        pytest.raises(IntegrityError, match="made again"),
    ):
        removal(table.catalog).run()
    assert on_disk(table) == files


def test_a_table_whose_folder_has_two_names_loses_no_file(table: Table, tmp_path: Path) -> None:
    before = values(table)
    (tmp_path / "alias").symlink_to(tmp_path / "warehouse")
    folder = tmp_path / "alias/db/events"
    with table.transaction() as transaction:
        transaction.set_properties(
            {
                "write.data.path": f"{folder}/data",
                "write.metadata.path": f"file://{folder}/metadata",
            }
        )
    all_aged(table)
    (lost,) = strays(table, "data/lost.parquet")
    assert removal(table.catalog).run().removed == 1
    assert not lost.exists()
    assert values(fresh(table)) == before
    assert_exact(fresh(table))


def test_a_data_folder_that_holds_the_whole_table_is_refused(table: Table) -> None:
    with table.transaction() as transaction:
        transaction.set_properties({"write.data.path": str(folder_of(table).parent)})
    with pytest.raises(ConfigError, match="inside it"):
        removal(table.catalog).run()


@pytest.mark.parametrize(
    ("mine", "others"), [("far/db/events", "far/db/other"), ("far/shared", "far/shared")]
)
def test_a_data_folder_elsewhere_is_searched_if_it_is_the_tables_alone(
    table: Table, tmp_path: Path, mine: str, others: str
) -> None:
    other = new_table(tmp_path, ("db", "other"))
    for one, folder in ((table, mine), (other, others)):
        with one.transaction() as transaction:
            transaction.set_properties({"write.data.path": f"{tmp_path}/{folder}/"})
        fresh(one).append(numbers(77))
    (tmp_path / mine / "lost.parquet").write_bytes(b"x")
    for path in (tmp_path / mine).iterdir():
        aged(path)
    assert removal(table.catalog).run().removed == (mine != others)
    assert 77 in values(fresh(table))
    assert values(fresh(other)) == [77]


def test_links_to_other_folders_are_not_followed(table: Table, tmp_path: Path) -> None:
    beside = tmp_path / "beside"
    beside.mkdir()
    (beside / "precious.txt").write_bytes(b"x")
    aged(beside / "precious.txt")
    (folder_of(table) / "data/link").symlink_to(beside)
    (folder_of(table) / "data/loop").symlink_to(folder_of(table) / "data")
    assert removal(table.catalog).run().removed == 0
    assert (beside / "precious.txt").exists()


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_nothing_is_removed_while_what_is_needed_cannot_be_read(table: Table, damage: str) -> None:
    (lost,) = strays(table, "data/lost.parquet")
    path = Path(table.metadata.snapshots[1].manifest_list.removeprefix("file://"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    if damage == "gone":
        path.unlink()
    with pytest.raises(TransientError if damage == "cut" else ServiceError):
        removal(table.catalog).run()
    assert lost.exists()
    path.write_bytes(whole)
    assert removal(table.catalog).run().removed == 1


def test_empty_folders_go_once_they_are_old(table: Table) -> None:
    old, young, full = (folder_of(table) / f"data/day={n}" for n in range(3))
    for folder in (old, young, full):
        folder.mkdir()
    (full / "x.parquet").write_bytes(b"x")
    aged(old)
    aged(full)
    assert removal(table.catalog).run().folders == 1
    assert [old.exists(), young.exists(), full.exists()] == [False, True, True]
    shutil.rmtree(folder_of(table) / "data")
    (folder_of(table) / "data").mkdir()
    aged(folder_of(table) / "data")
    assert removal(table.catalog).run().folders == 0, "the data folder itself"


def test_a_run_that_is_asked_to_stop_leaves_the_rest(table: Table) -> None:
    lost = strays(table, *(f"data/{n}.parquet" for n in range(9)))
    assert removal(table.catalog, stopping=lambda: True).run().removed == 0
    stop = False

    def set_stop(_: str) -> None:
        nonlocal stop
        stop = True

    job = removal(table.catalog, stopping=lambda: stop)
    with failpoints.armed("orphans.file.removed", set_stop, nth=4):
        done = job.run()
    assert (done.found, done.removed, done.left) == (9, 4, 5)
    assert sum(path.exists() for path in lost) == 5

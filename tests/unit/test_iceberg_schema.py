"""Tables are created, checked and widened as configured; what cannot be is told by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.exceptions import TableAlreadyExistsError
from pyiceberg.schema import Schema
from pyiceberg.types import (
    DoubleType,
    ListType,
    LongType,
    NestedField,
    StringType,
    StructType,
    TimestamptzType,
)

from k2i_tasks.errors import CommitConflictError, ConfigError, SchemaConflictError, TransientError
from k2i_tasks.iceberg.catalog import check_catalog, check_store
from k2i_tasks.iceberg.evolution import evolve
from k2i_tasks.iceberg.names import checked_identifier, identifier_of, must_be_inside
from k2i_tasks.iceberg.schema import (
    check_compatible,
    create_table,
    iceberg_schema,
    payload_arrow_schema,
)
from tests.iceberg_tables import NAME, catalog_of, config_at

HEADER = pa.struct([("key", pa.string()), ("value", pa.binary())])
KAFKA = [
    pa.field("_kafka_topic", pa.string()),
    pa.field("_kafka_partition", pa.int32()),
    pa.field("_kafka_offset", pa.int64()),
    pa.field("_kafka_timestamp", pa.timestamp("us", "UTC")),
    pa.field("_kafka_key", pa.binary()),
    pa.field("_kafka_headers", pa.list_(HEADER)),
]
PAYLOAD = [
    pa.field("id", pa.int32()),
    pa.field("price", pa.float32()),
    pa.field("where", pa.struct([("city", pa.string())])),
    pa.field("lines", pa.list_(pa.struct([("sku", pa.string())]))),
]
SCHEMA = pa.schema([*PAYLOAD, *KAFKA])


def test_a_new_table_has_the_properties_that_keep_commits_cheap(tmp_path: Path) -> None:
    config = config_at(tmp_path, properties={"write.metadata.previous-versions-max": "3"})
    table = create_table(catalog_of(config), NAME, SCHEMA, config)
    assert table.metadata.format_version == 2
    assert table.properties["commit.manifest-merge.enabled"] == "true"
    assert table.properties["commit.manifest.min-count-to-merge"] == "100"
    assert table.properties["write.metadata.delete-after-commit.enabled"] == "true"
    assert table.properties["write.metadata.previous-versions-max"] == "3"
    assert table.location() == str(tmp_path / "warehouse" / "db" / "events")


def test_creating_it_again_loads_the_table_that_is_there(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    first = create_table(catalog_of(config), NAME, SCHEMA, config)
    second = create_table(catalog_of(config), NAME, pa.schema([("other", pa.int64())]), config)
    assert second.metadata.table_uuid == first.metadata.table_uuid


def test_types_that_iceberg_lacks_are_widened_or_left_out() -> None:
    given = pa.schema(
        [
            ("unknown", pa.null()),
            ("part", pa.struct([("a", pa.null()), ("b", pa.int8())])),
            ("empty", pa.struct([("a", pa.null())])),
            ("u32", pa.uint32()),
            ("u64", pa.uint64()),
            ("ns", pa.timestamp("ns", "UTC")),
            ("words", pa.dictionary(pa.int32(), pa.string())),
        ]
    )
    told = {field.name: str(field.field_type) for field in iceberg_schema(given).fields}
    assert told == {
        "part": "struct<6: b: optional int>",
        "u32": "long",
        "u64": "decimal(20, 0)",
        "ns": "timestamptz",
        "words": "string",
    }


@pytest.mark.parametrize(
    ("spec", "field", "told"),
    [
        ({"source_field": "idd", "transform": "identity"}, "source_field", "Did you mean 'id'"),
        ({"source_field": "city", "transform": "identity"}, "source_field", "'city' is no column"),
        ({"source_field": "price", "transform": "day"}, "transform", "day does not take 'price'"),
        ({"source_field": "price", "transform": "bucket[4]"}, "transform", "does not take"),
        ({"source_field": "id", "transform": "bucket[4]", "name": "price"}, "name", "of a column"),
    ],
)
def test_a_partition_spec_that_does_not_fit_is_told_by_key(
    tmp_path: Path, spec: dict[str, Any], field: str, told: str
) -> None:
    config = config_at(tmp_path, partition_spec=[spec])
    with pytest.raises(ConfigError) as caught:
        create_table(catalog_of(config), NAME, SCHEMA, config)
    assert caught.value.field == f"iceberg.partition_spec[0].{field}"
    assert told in str(caught.value)


def test_a_field_that_may_be_missing_is_left_out_and_the_others_are_kept(tmp_path: Path) -> None:
    spec = [
        {"source_field": "city", "transform": "identity", "if_missing": "skip"},
        {"source_field": "id", "transform": "bucket[4]", "if_missing": "skip"},
    ]
    config = config_at(tmp_path, partition_spec=spec)
    [field] = create_table(catalog_of(config), NAME, SCHEMA, config).spec().fields
    assert (field.name, field.field_id) == ("id_bucket_4", 1000)


def test_a_sort_order_on_an_unknown_column_is_told_by_key(tmp_path: Path) -> None:
    config = config_at(tmp_path, sort_order=[{"source_field": "pricee"}])
    with pytest.raises(ConfigError, match="Did you mean 'price'"):
        create_table(catalog_of(config), NAME, SCHEMA, config)


def test_identifier_fields_are_required_and_marked(tmp_path: Path) -> None:
    config = config_at(tmp_path, identifier_fields=["id", "_kafka_offset"])
    schema = create_table(catalog_of(config), NAME, SCHEMA, config).schema()
    assert schema.identifier_field_names() == {"id", "_kafka_offset"}
    assert {field.name for field in schema.fields if field.required} == {"id", "_kafka_offset"}


@pytest.mark.parametrize(
    ("name", "told"),
    [("pricee", "Did you mean 'price'"), ("price", "float, by which rows cannot be told apart")],
)
def test_an_identifier_field_that_does_not_suit_is_told_by_key(
    tmp_path: Path, name: str, told: str
) -> None:
    config = config_at(tmp_path, identifier_fields=["id", name])
    with pytest.raises(ConfigError) as caught:
        create_table(catalog_of(config), NAME, SCHEMA, config)
    assert caught.value.field == "iceberg.identifier_fields[1]"
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("strategy", "told"),
    [
        ("daily", "_kafka_timestamp_day: day"),
        ("hourly", "_kafka_timestamp_hour: hour"),
        ("identity", "_kafka_partition: identity"),
        ("bucket", "_kafka_key_bucket_16: bucket[16]"),
    ],
)
def test_a_strategy_that_is_given_partitions_where_no_spec_does(
    tmp_path: Path, strategy: str, told: str
) -> None:
    config = config_at(tmp_path, table_management={"partition_strategy": strategy})
    [field] = create_table(catalog_of(config), NAME, SCHEMA, config).spec().fields
    assert told in str(field)


def test_without_spec_and_strategy_the_table_is_unpartitioned(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    assert create_table(catalog_of(config), NAME, SCHEMA, config).spec().is_unpartitioned()


def test_a_metadata_column_of_another_type_is_a_conflict_with_both_types(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    fields = [f.with_type(pa.string()) if f.name == "_kafka_offset" else f for f in SCHEMA]
    table = create_table(catalog_of(config), NAME, pa.schema(fields), config)
    with pytest.raises(SchemaConflictError, match="'_kafka_offset' is string, needed is long"):
        check_compatible(table, config)


def test_missing_metadata_columns_fail_unless_the_table_may_evolve(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    table = create_table(catalog_of(config), NAME, pa.schema(PAYLOAD), config)
    with pytest.raises(SchemaConflictError, match="no column '_kafka_topic', '_kafka_partition'"):
        check_compatible(table, config)
    evolving = config_at(tmp_path, table_management={"schema_mismatch_action": "evolve"})
    check_compatible(table, evolving)
    check_compatible(evolve(catalog_of(config), NAME, SCHEMA), config)


def test_a_decoder_gets_plain_arrow_types_without_kafkas_columns(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    table = create_table(catalog_of(config), NAME, SCHEMA, config)
    found = payload_arrow_schema(table, config.iceberg.metadata_columns)
    assert found.equals(pa.schema(PAYLOAD))
    assert "PARQUET:field_id" not in found.to_string(show_field_metadata=True)


def test_evolution_adds_nested_columns_and_widens_types_in_one_commit(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    catalog = catalog_of(config)
    before = create_table(catalog, NAME, SCHEMA, config)
    geo = pa.struct([("lat", pa.float64())])
    wanted = pa.schema(
        [
            ("price", pa.float64()),
            ("where", pa.struct([("zip", pa.string()), ("geo", geo)])),
            ("lines", pa.list_(pa.struct([("sku", pa.string()), ("n", pa.int64())]))),
            ("seen", pa.timestamp("us", "UTC")),
            ("id", pa.int64()),
        ]
    )
    table = evolve(catalog, NAME, wanted)
    schema = table.schema()
    assert schema.find_type("price") == DoubleType()
    assert schema.find_type("id") == LongType()
    assert schema.find_type("where.zip") == StringType()
    assert schema.find_type("where.geo.lat") == DoubleType()
    assert schema.find_type("lines.element.n") == LongType()
    assert schema.find_type("seen") == TimestamptzType()
    assert schema.find_type("where.city") == StringType()
    assert len(table.metadata.schemas) == 2
    ids = {name: before.schema().find_field(name).field_id for name in ("id", "where.city")}
    assert all(schema.find_field(name).field_id == number for name, number in ids.items())


def test_nothing_to_add_makes_no_commit(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    catalog = catalog_of(config)
    before = create_table(catalog, NAME, SCHEMA, config)
    narrower = pa.schema([("id", pa.int16()), ("nothing", pa.null())])
    assert evolve(catalog, NAME, narrower).metadata_location == before.metadata_location
    assert evolve(catalog, NAME, SCHEMA).metadata_location == before.metadata_location


@pytest.mark.parametrize(
    ("field", "told"),
    [
        (pa.field("id", pa.string()), "'id' is int in the table and string in the records"),
        (pa.field("where", pa.string()), "'where' is struct"),
        (pa.field("where", pa.struct([("city", pa.int64())])), "'where.city' is string"),
        (pa.field("_kafka_key", pa.string()), "'_kafka_key' is binary"),
        (pa.field("ID", pa.int64()), "differs only in case from 'id'"),
    ],
)
def test_a_change_that_is_no_promotion_is_refused(
    tmp_path: Path, field: pa.Field, told: str
) -> None:
    config = config_at(tmp_path)
    catalog = catalog_of(config)
    create_table(catalog, NAME, SCHEMA, config)
    with pytest.raises(SchemaConflictError, match=told):
        evolve(catalog, NAME, pa.schema([field]))


def test_evolution_looks_again_when_another_writer_was_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_at(tmp_path)
    catalog, rival = catalog_of(config), catalog_of(config)
    create_table(catalog, NAME, SCHEMA, config)
    plain, calls = catalog.commit_table, 0

    def raced(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            evolve(rival, NAME, pa.schema([("theirs", pa.int64())]))
        return plain(*arguments)

    monkeypatch.setattr(catalog, "commit_table", raced)
    table = evolve(catalog, NAME, pa.schema([("ours", pa.int64())]))
    assert calls == 2
    assert {"ours", "theirs"} <= set(table.schema().column_names)


def test_evolution_gives_up_after_ten_lost_races(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_at(tmp_path)
    catalog = catalog_of(config)
    create_table(catalog, NAME, SCHEMA, config)
    calls = 0

    def refuse(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        raise CommitConflictError("lost")

    monkeypatch.setattr(catalog, "commit_table", refuse)
    with pytest.raises(CommitConflictError):
        evolve(catalog, NAME, pa.schema([("ours", pa.int64())]))
    assert calls == 10


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "a b", "x" * 129, "a\0"])
def test_a_name_that_could_be_another_folder_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        checked_identifier(("db", name))


def test_a_dotted_database_is_a_nested_namespace() -> None:
    assert identifier_of("a.b", "t") == ("a", "b", "t")


def test_a_table_outside_the_warehouse_is_refused(tmp_path: Path) -> None:
    inside, outside = tmp_path / "warehouse", tmp_path / "elsewhere"
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    must_be_inside(f"file://{inside}/db/t", str(inside))
    for location in (f"{inside}/../elsewhere/t", str(inside / "link" / "t"), f"file://{outside}"):
        with pytest.raises(ConfigError, match="outside the warehouse"):
            must_be_inside(location, str(inside))


def test_the_checks_say_what_they_found_and_leave_nothing(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    assert check_catalog(config.iceberg, {}) == "Table db.events will be created."
    assert check_store(config.iceberg, {}).endswith("can be written.")
    create_table(catalog_of(config), NAME, SCHEMA, config)
    assert "is there, with 10 columns" in check_catalog(config.iceberg, {})
    check_store(config.iceberg, {})
    assert not list((tmp_path / "warehouse").rglob("k2i-check*"))


def test_a_missing_table_that_may_not_be_created_is_told(tmp_path: Path) -> None:
    config = config_at(tmp_path, table_management={"auto_create_if_missing": False})
    with pytest.raises(Exception, match="does not exist"):
        check_catalog(config.iceberg, {})


def test_a_map_key_is_not_widened_and_a_field_called_key_is(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    catalog = catalog_of(config)

    def shaped(kind: pa.DataType, *, in_map: bool) -> pa.Schema:
        plain = pa.struct([("key", kind)])
        return pa.schema([("m", pa.map_(kind, pa.string()) if in_map else plain)])

    create_table(catalog, NAME, shaped(pa.int32(), in_map=False), config)
    widened = evolve(catalog, NAME, shaped(pa.int64(), in_map=False))
    assert widened.schema().find_type("m.key") == LongType()
    create_table(catalog, ("db", "maps"), shaped(pa.int32(), in_map=True), config)
    with pytest.raises(SchemaConflictError, match=r"'m\.key' is int"):
        evolve(catalog, ("db", "maps"), shaped(pa.int64(), in_map=True))


def test_a_table_said_to_be_there_that_is_not_is_created_at_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_at(tmp_path)
    catalog = catalog_of(config)
    schema = pa.schema([("id", pa.int64())])

    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise TableAlreadyExistsError("409")

    with monkeypatch.context() as patch:
        patch.setattr(catalog, "create_table", refuse)
        with pytest.raises(TransientError, match="was not created"):
            create_table(catalog, NAME, schema, config)
    assert create_table(catalog, NAME, schema, config).name() == NAME


def test_what_rows_may_lack_is_made_optional_only_where_that_is_allowed(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    catalog = catalog_of(config)
    inner = StructType(NestedField(4, "m", LongType(), required=True))
    fields = [
        NestedField(1, "a", LongType(), required=True),
        NestedField(2, "b", LongType(), required=True),
        NestedField(3, "s", inner),
        NestedField(5, "l", ListType(6, LongType(), element_required=True)),
    ]
    catalog.create_namespace_if_not_exists("db")
    before = ids_of(catalog.create_table(NAME, Schema(*fields)).schema())
    rows = pa.schema(
        [
            ("a", pa.int64()),
            ("b", pa.int64()),
            ("s", pa.struct([("m", pa.int64())])),
            ("l", pa.list_(pa.field("element", pa.int64()))),
        ]
    )
    assert ids_of(evolve(catalog, NAME, rows).schema()) == before
    schema = evolve(catalog, NAME, rows, may_relax=("a", "s", "l")).schema()
    assert {name: number for number, name, _ in ids_of(schema)} == {
        name: number for number, name, _ in before
    }
    required = {name for _, name, needed in ids_of(schema) if needed}
    assert required == {"b"}


def ids_of(schema: Schema) -> set[tuple[int, str, bool]]:
    """Id, name, and whether it is required, of all fields."""
    names = schema._lazy_id_to_name
    return {(number, name, schema.find_field(number).required) for number, name in names.items()}

"""A field keeps its id through any evolution, and no id is given twice."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyiceberg.schema import Schema

from k2i_tasks.codecs.rules import Rules
from k2i_tasks.codecs.unite import unite
from k2i_tasks.iceberg.evolution import evolve
from k2i_tasks.iceberg.schema import create_table
from tests.iceberg_tables import NAME, catalog_of, config_at
from tests.scale import times

SCALARS = st.sampled_from(
    [pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.string()]
    + [pa.decimal128(digits, 2) for digits in (5, 9, 20)]
)


def member_lists(types: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[list[pa.Field]]:
    fields = st.builds(pa.field, st.sampled_from("abcd"), types)
    return st.lists(fields, min_size=1, max_size=3, unique_by=lambda field: field.name)


TYPES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        member_lists(inner).map(pa.struct),
        inner.map(lambda kind: pa.list_(pa.field("element", kind))),
        inner.map(lambda kind: pa.map_(pa.string(), kind)),
    ),
    max_leaves=4,
)
SCHEMAS = st.lists(member_lists(TYPES).map(pa.schema), min_size=2, max_size=6)


def fields_of(schema: Schema) -> dict[int, tuple[str, bool]]:
    """Name and whether it is required, by id."""
    return {
        number: (name, schema.find_field(number).required)
        for number, name in schema._lazy_id_to_name.items()
    }


@settings(
    deadline=None,
    max_examples=times(15, 1_000),
    suppress_health_check=[HealthCheck.too_slow],
)
@given(SCHEMAS)
def test_ids_names_and_what_is_required_outlive_every_evolution(schemas: list[pa.Schema]) -> None:
    with TemporaryDirectory() as folder:
        config = config_at(Path(folder))
        catalog = catalog_of(config)
        known = schemas[0]
        before = fields_of(create_table(catalog, NAME, known, config).schema())
        for given_schema in schemas[1:]:
            # As decoders do it: what contradicts is left out.
            united = unite(
                known, given_schema, additive=True, reserved=frozenset(), rules=Rules(), varies=True
            )
            known = united.schema
            after = fields_of(evolve(catalog, NAME, known).schema())
            assert before.items() <= after.items()
            added = [after[number] for number in after.keys() - before.keys()]
            # A map's key is required by Iceberg; nothing else that is added is.
            assert not [name for name, required in added if required and not name.endswith("key")]
            before = after
        found = catalog.load_table(NAME).schema()
        assert set(known.names) == {field.name for field in found.fields}

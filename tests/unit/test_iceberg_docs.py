"""A column's comment says how its values are read; it must outlive a restart."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from k2i_tasks.codecs import Decoder, MetadataColumns, make_decoder
from k2i_tasks.iceberg.evolution import evolve
from k2i_tasks.iceberg.schema import create_table, payload_arrow_schema
from tests.unit.codec_batches import batch_of
from tests.unit.test_committer import config, open_catalog

NAME = ("tests", "mixed")


@pytest.mark.parametrize("later", [False, True], ids=["created", "added"])
def test_mixed_values_mean_the_same_after_a_restart(tmp_path: Path, *, later: bool) -> None:
    settings = config(tmp_path)
    catalog = open_catalog(tmp_path)
    if later:
        create_table(catalog, NAME, pa.schema([("n", pa.int64())]), settings)
    mixed = batch_of([b'{"m": 1, "in": {"m": "x"}}', b'{"m": "a", "in": {"m": [2]}}'])

    def decoder(schema: pa.Schema | None) -> Decoder:
        return make_decoder(
            "json",
            columns=MetadataColumns(),
            table_schema=schema,
            max_message_bytes=1 << 20,
            mode="auto-additive",
        )

    first = decoder(None).decode(mixed)
    assert not first.dead_letters
    if later:
        table = evolve(catalog, NAME, first.table.schema)
    else:
        table = create_table(catalog, NAME, first.table.schema, settings)
    columns = settings.iceberg.metadata_columns
    again = decoder(payload_arrow_schema(table, columns)).decode(mixed)
    assert not again.dead_letters
    for name in ("m", "in"):
        assert again.table[name].to_pylist() == first.table[name].to_pylist()

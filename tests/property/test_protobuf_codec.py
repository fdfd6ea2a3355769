"""The Protobuf decoder against Google's library: any schema, any order of fields, any bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k2i_tasks.codecs.payloads import DecodedPayloads, Payloads
from k2i_tasks.codecs.protobuf import ProtobufDecoder
from k2i_tasks.codecs.vector import PADDING
from tests.property.protobuf_kinds import Kind, Refused, columns, kinds, plain
from tests.property.protobuf_wire import payloads

SETTINGS = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
#: Codes for values that Protobuf has and columns have not.
VALUES = ("protobuf.range", "protobuf.nanoseconds", "protobuf.json", "protobuf.encoding")


def rows(kind: Kind, decoded: DecodedPayloads) -> list[Any]:
    decoded.columns.validate(full=True)
    members = kind.kind.fields
    inside = (kind.kind.full_name,)
    return [
        plain({field.name: columns(row[field.name], field, inside) for field in members})
        for row in decoded.columns.to_pylist()
    ]


@SETTINGS
@given(st.data(), kinds())
def test_rows_are_what_googles_library_reads_and_errors_where_it_reads_nothing(
    data: st.DataObject, kind: Kind
) -> None:
    some = data.draw(st.lists(payloads(kind), min_size=1, max_size=5))
    # Many are read side by side, few are walked: both have to come to the same.
    together = some * data.draw(st.sampled_from([1, 1, 20, 60]))
    decoder = ProtobufDecoder(kind.kind)
    decoded = decoder.decode(Payloads.joined(together))
    assert decoded.columns.schema == decoder.schema
    expected = []
    for place, payload in enumerate(together):
        error = decoded.errors.get(place)
        try:
            row = kind.row(payload)
        except Refused:
            assert error is not None
            assert error.code in VALUES
            continue
        if row is not None and error is None:
            expected.append(plain(row))
        elif row is not None and not kind.proto3:
            # Of text that a later one replaces, too.
            assert error is not None
            assert error.code == "protobuf.encoding"
        else:
            assert (row is None) == (error is not None), (payload, error)
    assert rows(kind, decoded) == expected


@SETTINGS
@given(st.data(), kinds())
def test_a_payload_comes_to_the_same_whatever_is_beside_it(data: st.DataObject, kind: Kind) -> None:
    some = data.draw(st.lists(payloads(kind), min_size=2, max_size=6))
    decoder = ProtobufDecoder(kind.kind)
    gap = data.draw(st.binary(max_size=PADDING + 2))
    spaced = Payloads.joined([gap + payload for payload in some], skip=len(gap))
    order = data.draw(st.permutations(range(len(some))))
    decoded = decoder.decode(spaced.take(np.array(order * 20, np.int64)))
    alone = [decoder.decode(Payloads.joined([payload])) for payload in some]
    errors = {row: alone[row].errors[0] for row in range(len(some)) if alone[row].errors}
    assert {place: (error.code, error.what) for place, error in decoded.errors.items()} == {
        place: (errors[row].code, errors[row].what)
        for place, row in enumerate(order * 20)
        if row in errors
    }
    kept = [row for row in order * 20 if row not in errors]
    assert rows(kind, decoded) == [rows(kind, alone[row])[0] for row in kept]

"""Protobuf schemas to columns, and the schemas that are refused."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from google.protobuf import descriptor_pb2

from k2i_tasks.codecs import protobuf_compile
from k2i_tasks.codecs.infer import is_json_text
from k2i_tasks.codecs.protobuf import ProtobufDecoder
from k2i_tasks.codecs.protobuf_compile import compile_schema
from k2i_tasks.codecs.protobuf_known import KNOWN_FILES
from k2i_tasks.codecs.protobuf_schema import MAX_DEPTH, MAX_FIELDS, message_at, message_named
from k2i_tasks.codecs.registered import columns_of
from k2i_tasks.errors import DecodeError, TransientError
from k2i_tasks.registry import WriterSchema

HEAD = 'syntax = "proto3";\n'
UTC = pa.timestamp("us", "UTC")
WIDE = pa.decimal128(20, 0)


def schema_of(text: str, references: Mapping[str, str] | None = None) -> pa.Schema:
    return ProtobufDecoder(message_at(compile_schema(text, references or {}), (0,))).schema


def refusal(text: str, references: Mapping[str, str] | None = None) -> str:
    with pytest.raises(DecodeError) as refused:
        schema_of(text, references)
    assert refused.value.code == "schema.invalid"
    return refused.value.what


def encoded(file: Any) -> str:
    """A file's descriptor as some clients register it."""
    found = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(found)
    return base64.b64encode(found.SerializeToString()).decode()


def test_every_type_has_its_column() -> None:
    kinds = {
        "double": pa.float64(),
        "float": pa.float32(),
        "int32": pa.int32(),
        "sint32": pa.int32(),
        "sfixed32": pa.int32(),
        "int64": pa.int64(),
        "sint64": pa.int64(),
        "sfixed64": pa.int64(),
        "uint32": pa.int64(),
        "fixed32": pa.int64(),
        "uint64": WIDE,
        "fixed64": WIDE,
        "bool": pa.bool_(),
        "string": pa.string(),
        "bytes": pa.binary(),
        "E": pa.string(),
        "I": pa.struct([("a", pa.int32())]),
        "Nothing": pa.bool_(),
        "map<string, I>": pa.map_(pa.string(), pa.struct([("a", pa.int32())])),
        "map<uint64, E>": pa.map_(WIDE, pa.string()),
        "repeated I": pa.list_(pa.field("element", pa.struct([("a", pa.int32())]))),
        "optional int32": pa.int32(),
    }
    fields = "".join(f"{kind} f{n} = {n};" for n, kind in enumerate(kinds, 1))
    more = "message I { int32 a = 1; } message Nothing {} enum E { A = 0; }"
    found = schema_of(f"{HEAD}message M {{ {fields} }} {more}")
    assert found.types == list(kinds.values())


def test_well_known_types_have_columns_of_their_own() -> None:
    kinds = {
        "Timestamp": UTC,
        "Duration": pa.struct([("seconds", pa.int64()), ("nanos", pa.int32())]),
        "DoubleValue": pa.float64(),
        "UInt32Value": pa.int64(),
        "UInt64Value": WIDE,
        "BytesValue": pa.binary(),
        "Any": pa.struct([("type_url", pa.string()), ("value", pa.binary())]),
        "FieldMask": pa.struct([("paths", pa.list_(pa.field("element", pa.string())))]),
        "Empty": pa.bool_(),
        "Struct": pa.string(),
        "ListValue": pa.string(),
        "Value": pa.string(),
    }
    files = ("timestamp", "duration", "wrappers", "any", "field_mask", "empty", "struct")
    imports = "".join(f'import "google/protobuf/{file}.proto";' for file in files)
    fields = "".join(f"google.protobuf.{kind} f{n} = {n};" for n, kind in enumerate(kinds, 1))
    found = schema_of(f"{HEAD}{imports} message M {{ {fields} }}")
    assert found.types == list(kinds.values())
    assert [is_json_text(field) for field in found] == [False] * 9 + [True] * 3


def test_what_is_called_like_a_well_known_type_is_not_taken_for_one() -> None:
    text = f"{HEAD} package google.protobuf; message M {{ Timestamp t = 1; }}"
    found = schema_of(f"{text} message Timestamp {{ int32 a = 1; }}")
    assert found.field("t").type == pa.struct([("a", pa.int32())])


def test_files_that_registries_supply_are_there() -> None:
    names = [*KNOWN_FILES, "google/type/date.proto", "google/type/money.proto"]
    # Both of these declare one name.
    names.remove("confluent/types/decimal.proto")
    imports = "".join(f'import "{name}";' for name in names)
    meta = '[(confluent.field_meta).doc = "x"]'
    fields = f"google.type.Money a = 1; confluent.type.Decimal b = 2 {meta};"
    found = schema_of(f"{HEAD}{imports} message M {{ {fields} }}")
    money = [("currency_code", pa.string()), ("units", pa.int64()), ("nanos", pa.int32())]
    decimal = [("value", pa.binary()), ("precision", pa.int64()), ("scale", pa.int32())]
    assert found.types == [pa.struct(money), pa.struct(decimal)]


def test_references_are_found_by_their_import_names_as_text_or_descriptors() -> None:
    inner = f"{HEAD} package a; message I {{ int32 x = 1; }}"
    middle = f'{HEAD} package b; import public "deep/er/a.proto"; message J {{ a.I i = 1; }}'
    outer = f'{HEAD} import "b.proto"; message M {{ b.J j = 1; a.I i = 2; }}'
    references = {"deep/er/a.proto": inner, "b.proto": middle}
    wanted = schema_of(outer, references)
    assert wanted.names == ["j", "i"]
    pool = compile_schema(outer, references).pool
    described = {name: encoded(pool.FindFileByName(name)) for name in references}
    assert schema_of(outer, described) == wanted
    assert schema_of(encoded(compile_schema(outer, references)), described) == wanted
    assert schema_of(encoded(compile_schema(outer, references)), references) == wanted


def test_a_message_in_itself_is_json_text_at_the_place_where_it_comes_again() -> None:
    found = schema_of(
        f"{HEAD} message M {{ int32 a = 1; M m = 2; repeated N n = 3; map<string, M> k = 4; }}"
        " message N { M m = 1; }"
    )
    text = pa.string()
    assert is_json_text(found.field("m"))
    assert found.field("n").type.value_type == pa.struct([("m", text)])
    assert is_json_text(found.field("n").type.value_type[0])
    assert found.field("k").type == pa.map_(text, text)


def test_what_is_nested_too_deep_is_json_text() -> None:
    levels = MAX_DEPTH + 3
    messages = "".join(f"message M{n} {{ M{n + 1} m = 1; }}" for n in range(levels))
    found = schema_of(f"{HEAD}{messages} message M{levels} {{ int32 a = 1; }}")
    depth, kind = 0, found.field("m").type
    while pa.types.is_struct(kind):
        depth, kind = depth + 1, kind[0].type
    assert kind == pa.string()
    assert depth == MAX_DEPTH


def test_types_that_multiply_are_bounded() -> None:
    fields = "".join(f"N f{n} = {n};" for n in range(1, 11))
    messages = "".join(f"message M{n} {{ {fields.replace('N', f'M{n + 1}')} }}" for n in range(6))
    assert f"more than {MAX_FIELDS} fields" in refusal(f"{HEAD}{messages} message M6 {{}}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("message {", "schema.proto:1:9: Expected message name."),
        ('import "nope.proto";', "nope.proto: File not found."),
        ('import "/etc/passwd";', "/etc/passwd: File not found."),
        ('import "../../x.proto";', "not allowed in the virtual path"),
        (HEAD + "message M { required int32 a = 1; }", "Required fields are not allowed"),
        (HEAD + "message A {" * 5_000, "recursion limit"),
        ("AAAA", "base 64 of something else"),
        (HEAD + f"message M {{ {'x' * 10_000} a = 1; }}", "..."),
        ("\ud800", "not Unicode"),
    ],
)
def test_a_schema_that_is_none_is_refused_with_the_compilers_words(text: str, says: str) -> None:
    what = refusal(text)
    assert says in what
    assert len(what) < 400
    assert "k2i-protobuf" not in what


@pytest.mark.parametrize("name", ["../x", "/x", "a/../x", "a//x", "", "a\0b", "a\\b", "x" * 2_000])
def test_names_of_references_lead_nowhere_else(name: str) -> None:
    assert "no relative path" in refusal(f"{HEAD} message M {{}}", {name: HEAD})


def test_a_file_and_a_folder_of_one_name_are_refused() -> None:
    assert "both a file and the folder" in refusal(HEAD, {"a": HEAD, "a/b": HEAD})


def test_a_compiler_that_gives_no_answer_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf_compile, "COMPILE_SECONDS", 0.0)
    with pytest.raises(TransientError, match="gave no answer"):
        compile_schema(HEAD, {})


def test_a_compiler_that_is_killed_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    child = tmp_path / "child.py"
    child.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.setattr(protobuf_compile, "_CHILD", child)
    with pytest.raises(TransientError, match="was killed"):
        compile_schema(HEAD, {})
    # One that crashes does so again.
    child.write_text("import os\nos.abort()\n")
    assert "ended with code -6" in refusal(HEAD)


def test_the_compiler_is_told_nothing_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "grpc_tools.py").write_text("raise SystemExit(1)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert compile_schema(HEAD, {}).name == "schema.proto"


NESTED = f"""{HEAD} package p;
message A {{ map<string, int32> m = 1; message X {{ int32 x = 1; }} message Y {{ int32 y = 1; }} }}
message B {{ int32 b = 1; message X {{ message Z {{ int32 z = 1; }} }} }}
"""


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ((0,), "p.A"),
        ((1,), "p.B"),
        ((0, 1), "p.A.X"),
        ((0, 2), "p.A.Y"),
        # The entry of a map is none that anybody writes.
        ((0, 0), "p.A.X"),
        ((1, 0, 0), "p.B.X.Z"),
    ],
)
def test_message_types_are_found_by_path_and_by_name(path: tuple[int, ...], name: str) -> None:
    file = compile_schema(NESTED, {})
    assert message_at(file, path).full_name == name
    assert message_named(file, name).full_name == name


@pytest.mark.parametrize("path", [(2,), (0, 3), (1, 0, 0, 0)])
def test_a_path_that_leads_nowhere_is_refused(path: tuple[int, ...]) -> None:
    with pytest.raises(DecodeError) as refused:
        message_at(compile_schema(NESTED, {}), path)
    assert refused.value.code == "schema.message_index"


def test_the_columns_ahead_are_those_of_the_named_type_or_the_first() -> None:
    schema = WriterSchema(1, "PROTOBUF", NESTED, {})
    assert columns_of("protobuf", schema).names == ["m"]
    assert columns_of("protobuf", schema, "p.A.Y").names == ["y"]
    with pytest.raises(DecodeError, match="no message type"):
        columns_of("protobuf", schema, "p.C")
    with pytest.raises(DecodeError, match="of type AVRO"):
        columns_of("protobuf", WriterSchema(1, "AVRO", "{}", {}))

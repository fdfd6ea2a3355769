"""From a message's descriptor to what reads it, and with it to the types of its columns."""

from __future__ import annotations

import pyarrow as pa
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor

from k2i_tasks.codecs.frames import MessagePath
from k2i_tasks.codecs.infer import JSON_TEXT_METADATA
from k2i_tasks.codecs.protobuf_leaves import leaf_of
from k2i_tasks.codecs.protobuf_readers import (
    FieldReader,
    ListReader,
    MapReader,
    MessageReader,
    MessagesReader,
    NestedReader,
    ScalarReader,
    StructReader,
)
from k2i_tasks.codecs.protobuf_special import (
    EmptyReader,
    JsonReader,
    TimestampReader,
    WrapperReader,
)
from k2i_tasks.codecs.protobuf_tags import GROUP, LENGTH
from k2i_tasks.errors import DecodeError

#: Messages in messages; what is deeper is JSON text.
MAX_DEPTH = 20
#: Fields of all messages, counted at each use.
MAX_FIELDS = 10_000
_WELL_KNOWN = "google/protobuf/"
_WRAPPERS = frozenset(
    f"google.protobuf.{kind}Value"
    for kind in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)
_JSON = frozenset(f"google.protobuf.{kind}" for kind in ("Struct", "Value", "ListValue"))
_TIMESTAMP = "google.protobuf.Timestamp"
_MESSAGES = (FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_GROUP)


def reader_of(kind: Descriptor, *, truncates: bool = False) -> StructReader | EmptyReader:
    """What reads messages of a type, each of them a row.

    - Numbers and booleans are what they are called; uint32 and fixed32 are a long, uint64 and
      fixed64 a decimal of 20 digits. An enum is a string: the name, or the number where there is no
      name for it.
    - A message is a struct, one without fields a boolean, true where it is there. A repeated field
      is a list, a map a map. The members of a oneof are members like others.
    - google.protobuf: Timestamp is a timestamp in UTC, a wrapper the value or null; Struct, Value
      and ListValue are JSON text. All others are structs.
    - A message in itself, and what is nested deeper than `MAX_DEPTH`, is JSON text.
    - An absent field is the type's default where the schema does not tell absence from it, an empty
      list or map, and null otherwise.

    Args:
        kind: the type.
        truncates: whether nanoseconds of timestamps are cut off, and not refused.

    Raises:
        DecodeError: `schema.invalid`, it has more than `MAX_FIELDS` fields.
    """
    builder = _Builder(truncates)
    return builder.struct(kind, "", ()) if kind.fields else EmptyReader()


def message_at(file: FileDescriptor, path: MessagePath) -> Descriptor:
    """The message type at a path of indexes.

    The indexes count as descriptors do, with the entries of maps, which are no types to write; the
    index of such a one is taken as of a client that does not count them.

    Raises:
        DecodeError: `schema.message_index`, there is none.
    """
    kinds = list(file.message_types_by_name.values())
    found: Descriptor | None = None
    for index in path:
        if index < len(kinds) and _is_entry(kinds[index]):
            kinds = [kind for kind in kinds if not _is_entry(kind)]
        if index >= len(kinds):
            found = None
            break
        found = kinds[index]
        kinds = list(found.nested_types)
    if found is None:
        what = f"The schema has no message type at index {'.'.join(map(str, path))}."
        raise DecodeError("schema.message_index", what)
    return found


def message_named(file: FileDescriptor, name: str) -> Descriptor:
    """The message type of a full name.

    Raises:
        DecodeError: `schema.invalid`, there is none in the file.
    """
    kinds = list(file.message_types_by_name.values())
    while kinds:
        kind = kinds.pop()
        if kind.full_name == name:
            return kind
        kinds += kind.nested_types
    raise DecodeError("schema.invalid", f"The schema has no message type {name[:200]!r}.")


def _is_entry(kind: Descriptor) -> bool:
    return bool(kind.GetOptions().map_entry)


class _Builder:
    """Builds readers; counts the fields."""

    def __init__(self, truncates: bool) -> None:
        self._truncates = truncates
        self._count = 0

    def struct(
        self, kind: Descriptor, where: str, inside: tuple[str, ...], *, explicit: bool = True
    ) -> StructReader:
        """The reader of a message with fields.

        Args:
            where: dotted path, for errors.
            inside: full names of the messages around it.
            explicit: whether fields have presence where the schema says so; those of an entry of a
                map have none.
        """
        before = self._count
        readers: dict[str, FieldReader] = {}
        paths: dict[int, str] = {}
        members: list[pa.Field] = []
        for field in kind.fields:
            self._count += 1
            if self._count > MAX_FIELDS:
                what = f"The schema has more than {MAX_FIELDS} fields, counted at each use."
                raise DecodeError("schema.invalid", what)
            path = f"{where}.{field.name}" if where else field.name
            present = explicit and bool(field.has_presence)
            reader = self._field(field, path, (*inside, kind.full_name), present)
            readers[field.name] = reader
            paths |= dict.fromkeys(reader.tags, path)
            text = isinstance(reader, NestedReader) and isinstance(reader.message, JsonReader)
            metadata = JSON_TEXT_METADATA if text else None
            members.append(pa.field(field.name, reader.type, metadata=metadata))
        oneofs = [
            [readers[field.name] for field in oneof.fields]
            for oneof in kind.oneofs
            # With one member it is how presence is written down.
            if len(oneof.fields) > 1
        ]
        return StructReader(members, list(readers.values()), oneofs, paths, self._count - before)

    def _field(
        self, field: FieldDescriptor, where: str, inside: tuple[str, ...], explicit: bool
    ) -> FieldReader:
        number = field.number
        if field.type not in _MESSAGES:
            leaf = leaf_of(field, where)
            if field.is_repeated:
                return ListReader(number, leaf, where)
            return ScalarReader(number, leaf, explicit=explicit)
        kind = field.message_type
        if _is_entry(kind) and field.is_repeated:
            entry = self.struct(kind, where, inside, explicit=False)
            return MapReader(number, entry, where)
        wire = GROUP if field.type == FieldDescriptor.TYPE_GROUP else LENGTH
        path = f"{where}.element" if field.is_repeated else where
        message = self._message(kind, path, inside)
        if field.is_repeated:
            return MessagesReader(number, wire, message, where)
        return NestedReader(number, wire, message, explicit=explicit)

    def _message(self, kind: Descriptor, where: str, inside: tuple[str, ...]) -> MessageReader:
        name = kind.full_name
        known = kind.file.name.startswith(_WELL_KNOWN)
        if name in inside or len(inside) > MAX_DEPTH or (known and name in _JSON):
            return JsonReader(kind, where)
        if not kind.fields:
            return EmptyReader()
        inner = self.struct(kind, where, inside, explicit=not (known and name in _WRAPPERS))
        if known and name == _TIMESTAMP:
            return TimestampReader(inner, where, truncates=self._truncates)
        return WrapperReader(inner) if known and name in _WRAPPERS else inner

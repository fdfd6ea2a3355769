"""What is asked of a schema registry, and what is made of its answers and of its failures."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from k2i_tasks.errors import (
    Component,
    ConfigError,
    DecodeError,
    K2IError,
    ServiceError,
    TransientError,
)
from k2i_tasks.registry import DiskCache, RegistrySettings, Schemas, WriterSchema
from k2i_tasks.registry.client import ANSWER_BYTES_MAX
from k2i_tasks.registry.schemas import REFERENCE_DEPTH_MAX, REFERENCES_MAX
from tests.schema_registry import FakeRegistry, Fault, cut, dripping, status

TEXT = '{"type":"record","name":"R","fields":[]}'


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as served:
        yield served


def settings_of(registry: FakeRegistry) -> RegistrySettings:
    return RegistrySettings(registry.url, timeout_seconds=0.5, tries=2)


def schemas_of(registry: FakeRegistry, folder: Path | None = None) -> Schemas:
    disk = None if folder is None else DiskCache(folder, registry.url)
    return Schemas(settings_of(registry), disk)


def test_a_schema_comes_with_all_that_it_refers_to_deepest_first(registry: FakeRegistry) -> None:
    registry.add("a/b c", '"a"')
    registry.add("b", '"b"', references=[("A", "a/b c", 1)])
    top = registry.add(
        "c", '"c"', kind="JSON", references=[("B", "b", 1), ("A", "a/b c", 1), ("A2", "a/b c", 1)]
    )
    found = schemas_of(registry).schema(top)
    assert (found.id, found.kind, found.text) == (top, "JSON", '"c"')
    assert list(found.references.items()) == [("A", '"a"'), ("B", '"b"'), ("A2", '"a"')]
    # Each is fetched once, whoever refers to it.
    assert len(registry.requests) == 3


def test_an_id_is_asked_for_once_and_a_kind_that_is_not_told_is_avro(
    registry: FakeRegistry,
) -> None:
    known = registry.add("s", TEXT)
    schemas = schemas_of(registry)
    assert schemas.schema(known) == schemas.schema(known) == WriterSchema(known, "AVRO", TEXT, {})
    assert registry.requests == [f"/schemas/ids/{known}"]


def test_the_latest_schema_of_a_subject_is_believed_for_a_while(registry: FakeRegistry) -> None:
    now = [0.0]
    schemas = Schemas(settings_of(registry), None, latest_seconds=60, monotonic=lambda: now[0])
    assert schemas.latest("s") is None
    first, second = registry.add("s", "1"), registry.add("s", "2")
    assert first != second
    found = schemas.latest("s")
    assert found is not None
    assert found.id == second
    third = registry.add("s", "3")
    now[0] = 59.0
    assert schemas.latest("s") == found
    now[0] = 61.0
    newest = schemas.latest("s")
    assert newest is not None
    assert newest.id == third


def test_an_unknown_id_is_told_from_a_registry_that_is_not_there(registry: FakeRegistry) -> None:
    with pytest.raises(DecodeError) as unknown:
        schemas_of(registry).schema(7)
    assert unknown.value.code == "registry.unknown_id"
    elsewhere = replace(settings_of(registry), url=f"{registry.url}/apis/other")
    with pytest.raises(ServiceError, match="schema_registry_url, path included"):
        Schemas(elsewhere, None).schema(7)
    # It may be registered later.
    registry.add("s", TEXT, schema_id=7)
    assert schemas_of(registry).schema(7).text == TEXT


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (401, ServiceError, "Give a user name and password, or a token"),
        (403, ServiceError, "HTTP status 403"),
        (404, ServiceError, "path included"),
        (302, ServiceError, "as no schema registry does"),
        (400, ServiceError, "HTTP status 400"),
        (408, TransientError, "HTTP status 408"),
        (429, TransientError, "HTTP status 429"),
        (500, TransientError, "HTTP status 500"),
        (503, TransientError, "HTTP status 503"),
    ],
)
def test_a_status_is_a_refusal_or_an_outage(
    registry: FakeRegistry, code: int, kind: type[K2IError], words: str
) -> None:
    registry.always = status(code)
    with pytest.raises(kind, match=words) as raised:
        schemas_of(registry).schema(1)
    assert raised.value.component is Component.REGISTRY
    assert len(registry.requests) == (2 if kind is TransientError else 1)


@pytest.mark.parametrize(
    "fault",
    [
        cut,
        dripping,
        status(200, b"<html>the proxy is busy</html>"),
        status(200, b'{"no": "schema"}'),
        status(200, b'{"schema": 5}'),
        status(200, b'[{"schema": "x"}]'),
        status(200, b'{"schema": "x", "references": [{"name": "n"}]}'),
        status(200, b"[" * 100_000),
        status(503),
    ],
    ids=["cut", "dripping", "html", "other", "number", "list", "reference", "deep", "503"],
)
def test_one_bad_answer_is_asked_for_again(registry: FakeRegistry, fault: Fault) -> None:
    known = registry.add("s", TEXT)
    registry.faults.append(fault)
    assert schemas_of(registry).schema(known).text == TEXT
    registry.always = fault
    with pytest.raises(TransientError, match="The schema registry at http"):
        schemas_of(registry).schema(known)


def test_an_answer_without_end_is_not_read_to_its_end(registry: FakeRegistry) -> None:
    registry.always = status(200, b" " * (ANSWER_BYTES_MAX + 1))
    with pytest.raises(ServiceError, match=f"more than {ANSWER_BYTES_MAX} bytes"):
        schemas_of(registry).schema(1)


def test_an_answer_about_another_id_is_not_taken(registry: FakeRegistry) -> None:
    registry.always = status(200, b'{"schema": "x", "id": 5}')
    with pytest.raises(ServiceError, match="asked for schema 4 and answered with 5"):
        schemas_of(registry).schema(4)


def test_nothing_listens() -> None:
    with FakeRegistry() as gone:
        settings = settings_of(gone)
    with pytest.raises(TransientError, match="does not answer"):
        Schemas(settings, None).schema(1)


def test_references_in_a_circle_in_a_chain_or_without_end_are_refused(
    registry: FakeRegistry,
) -> None:
    registry.add("x", "x", references=[("y", "y", 1)])
    registry.add("y", "y", references=[("x", "x", 1)])
    circle = registry.add("z", "z", references=[("x", "x", 1)])
    for n in range(REFERENCE_DEPTH_MAX + 2):
        chain = registry.add(f"c{n}", "c", references=[(f"n{n}", f"c{n - 1}", 1)] if n else ())
    for n in range(REFERENCES_MAX + 1):
        registry.add(f"w{n}", "w")
    names = [(f"w{n}", f"w{n}", 1) for n in range(REFERENCES_MAX + 1)]
    wide = registry.add("w", "w", references=names)
    registry.add("p", "1")
    registry.add("p", "2")
    torn = registry.add("t", "t", references=[("p", "p", 1), ("p", "p", 2)])
    for schema_id, words in (
        (circle, "in a circle"),
        (chain, "in a chain"),
        (wide, f"to more than {REFERENCES_MAX}"),
        (torn, "two different ones"),
    ):
        with pytest.raises(DecodeError, match=words) as refused:
            schemas_of(registry).schema(schema_id)
        assert refused.value.code == "registry.references"
    dangling = registry.add("d", "d", references=[("q", "nowhere", 3)])
    with pytest.raises(DecodeError, match="version 3 of 'nowhere'") as unknown:
        schemas_of(registry).schema(dangling)
    assert unknown.value.code == "registry.unknown_reference"


def test_a_login_is_sent_and_never_shown(
    registry: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    known = registry.add("s", TEXT)
    basic = replace(settings_of(registry), user="ann", password="a-secret")
    Schemas(basic, None).schema(known)
    expected = base64.b64encode(b"ann:a-secret").decode()
    assert registry.headers["Authorization"] == f"Basic {expected}"
    bearer = replace(settings_of(registry), token="t-secret")
    Schemas(bearer, None).schema(known)
    assert registry.headers["Authorization"] == "Bearer t-secret"
    in_url = replace(settings_of(registry), url=registry.url.replace("://", "://ann:u-secret@"))
    Schemas(in_url, None).schema(known)
    in_url_expected = base64.b64encode(b"ann:u-secret").decode()
    assert registry.headers["Authorization"] == f"Basic {in_url_expected}"
    registry.always = status(401)
    for settings in (basic, bearer, in_url):
        with pytest.raises(ServiceError, match="Check user name, password") as refused:
            Schemas(settings, None).schema(known)
        assert "-secret" not in f"{refused.value} {settings.shown} {caplog.text}"
    assert "a-secret" not in repr(basic) + repr(bearer)


def test_a_certificate_that_is_none_is_a_mistake_in_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    for settings, field in (
        (RegistrySettings("https://127.0.0.1:1", ca_file=file), "ssl_ca_location"),
        (RegistrySettings("https://127.0.0.1:1", ca_file=tmp_path / "no"), "ssl_ca_location"),
        (RegistrySettings("https://127.0.0.1:1", certificate_file=file), "ssl_cert_location"),
    ):
        with pytest.raises(ConfigError) as wrong:
            Schemas(settings, None).schema(1)
        assert wrong.value.field == f"kafka.format.schema_registry.{field}"


# On disk.


def test_what_was_fetched_outlives_the_process_and_the_registry(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    registry.add("a", "a")
    known = registry.add("s", TEXT, references=[("A", "a", 1)])
    found = schemas_of(registry, tmp_path).schema(known)
    with registry.away():
        assert schemas_of(registry, tmp_path).schema(known) == found
        # The same id of another registry is another schema.
        other = Schemas(settings_of(registry), DiskCache(tmp_path, "http://other"))
        with pytest.raises(TransientError):
            other.schema(known)


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "renamed", "no json", "folder"])
def test_a_damaged_file_is_fetched_anew(
    registry: FakeRegistry, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    known = registry.add("s", TEXT)
    schemas_of(registry, tmp_path).schema(known)
    path = DiskCache(tmp_path, registry.url).path(known)
    whole = path.read_bytes()
    if damage == "renamed":
        other = registry.add("s", "another")
        schemas_of(registry, tmp_path).schema(other)
        DiskCache(tmp_path, registry.url).path(other).replace(path)
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        flipped = whole.replace(b"record", b"recorc")
        bodies = {"empty": b"", "cut": whole[:-9], "flipped": flipped, "no json": b"[[]]"}
        path.write_bytes(bodies[damage])
    registry.requests.clear()
    assert schemas_of(registry, tmp_path).schema(known).text == TEXT
    assert registry.requests == [f"/schemas/ids/{known}"]
    assert str(path) in caplog.text
    if damage != "folder":
        assert path.read_bytes() == whole
    assert not list(path.parent.glob("*.tmp"))


def test_a_disk_that_takes_nothing_stops_nothing(registry: FakeRegistry, tmp_path: Path) -> None:
    known = registry.add("s", TEXT)
    (tmp_path / "file").write_text("")
    assert schemas_of(registry, tmp_path / "file").schema(known).text == TEXT


def test_a_cache_holds_no_login(registry: FakeRegistry, tmp_path: Path) -> None:
    known = registry.add("s", TEXT)
    url = registry.url.replace("://", "://ann:u-secret@")
    settings = replace(settings_of(registry), url=url, password="p-secret", user="ann")
    Schemas(settings, DiskCache(tmp_path, settings.shown)).schema(known)
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(kept) == 1
    assert not any(b"secret" in path.read_bytes() or "secret" in str(path) for path in kept)

"""Each failure of catalog and store becomes the error that says whether to try again."""

from __future__ import annotations

import errno
import http.server
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
import requests
from botocore.exceptions import ClientError, EndpointConnectionError
from pyiceberg import exceptions as ice
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from k2i_tasks.errors import (
    CommitConflictError,
    CommitStateUnknownError,
    Component,
    ConfigError,
    K2IError,
    SchemaConflictError,
    ServiceError,
    TransientError,
)
from k2i_tasks.iceberg.catalog import guard_commits, open_catalog, sql_url
from k2i_tasks.iceberg.errors import commit_outcome, translated, without_secrets
from k2i_tasks.iceberg.schema import create_table
from k2i_tasks.iceberg.store import warehouse_location
from k2i_tasks.iceberg.writer import DataFileWriter, data_file
from tests.iceberg_tables import NAME, append, catalog_of, config_at, read

SCHEMA = pa.schema([("id", pa.int64())])


def locked() -> OperationalError:
    return OperationalError(
        "UPDATE t SET x = :secret", {}, sqlite3.OperationalError("database is locked")
    )


def aws(code: str, status: int) -> ClientError:
    body = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(body, "GetTable")


MEANINGS: list[tuple[Exception, type[K2IError], Component | None]] = [
    (ice.NoSuchTableError("db.t"), ServiceError, Component.ICEBERG),
    (ice.UnauthorizedError("no"), ServiceError, Component.ICEBERG),
    (ice.ForbiddenError("no"), ServiceError, Component.ICEBERG),
    (ice.OAuthError("invalid_client"), ServiceError, Component.ICEBERG),
    (ice.BadRequestError("what"), ServiceError, Component.ICEBERG),
    (ice.ServerError("500"), TransientError, Component.ICEBERG),
    (ice.ServiceUnavailableError("503"), TransientError, Component.ICEBERG),
    (ice.TooManyRequestsError("429"), TransientError, Component.ICEBERG),
    (ice.CommitStateUnknownException("504"), TransientError, Component.ICEBERG),
    (ice.ValidationError("types"), SchemaConflictError, Component.ICEBERG),
    (requests.ConnectionError("refused"), TransientError, Component.ICEBERG),
    (requests.ReadTimeout("slow"), TransientError, Component.ICEBERG),
    (locked(), TransientError, Component.ICEBERG),
    (aws("AccessDeniedException", 400), ServiceError, Component.ICEBERG),
    (aws("ThrottlingException", 400), TransientError, Component.ICEBERG),
    (aws("InternalFailure", 500), TransientError, Component.ICEBERG),
    (EndpointConnectionError(endpoint_url="http://x"), TransientError, Component.ICEBERG),
    (OSError(errno.ENOSPC, "No space left on device"), ServiceError, Component.STORAGE),
    (OSError(errno.EROFS, "Read-only file system"), ServiceError, Component.STORAGE),
    (PermissionError(errno.EACCES, "Permission denied"), ServiceError, Component.STORAGE),
    (NotADirectoryError(errno.ENOTDIR, "Not a directory"), ServiceError, Component.STORAGE),
    (OSError(errno.EIO, "Input/output error"), ServiceError, Component.STORAGE),
    (OSError("AWS Error ACCESS_DENIED during PutObject"), ServiceError, Component.STORAGE),
    (OSError("AWS Error NO_SUCH_BUCKET during PutObject"), ServiceError, Component.STORAGE),
    (OSError("AWS Error NETWORK_CONNECTION during PutObject"), TransientError, Component.STORAGE),
    (OSError("curlCode: 28, Timeout was reached"), TransientError, Component.STORAGE),
    (RuntimeError("a bug"), ServiceError, Component.ICEBERG),
]


@pytest.mark.parametrize(("raised", "expected", "component"), MEANINGS)
def test_a_failure_is_told_as_what_it_means(
    raised: Exception, expected: type[K2IError], component: Component | None
) -> None:
    with pytest.raises(K2IError) as caught, translated("reading table db.t"):
        raise raised
    assert type(caught.value) is expected
    assert caught.value.component is component
    assert caught.value.__cause__ is raised
    assert str(caught.value).startswith("Reading table db.t failed: ")


UNKNOWN = [
    ice.CommitStateUnknownException("504"),
    ice.ServiceUnavailableError("503"),
    ice.BadRequestError("400"),
    ice.NoSuchTableError("gone"),
    ice.ValidationException("rules"),
    requests.ConnectionError("cut"),
    requests.ReadTimeout("slow"),
    locked(),
    ValueError("garbage"),
]


@pytest.mark.parametrize("raised", UNKNOWN)
def test_a_commit_that_failed_in_any_way_but_a_refusal_is_unknown(raised: Exception) -> None:
    with pytest.raises(CommitStateUnknownError) as caught, commit_outcome("commit"):
        raise raised
    assert caught.value.__cause__ is raised


def test_a_lost_race_is_a_conflict() -> None:
    with pytest.raises(CommitConflictError), commit_outcome("commit"):
        raise ice.CommitFailedException("409")


@pytest.mark.parametrize(
    "raised",
    [
        ice.UnauthorizedError("no"),
        ice.ForbiddenError("no"),
        OSError(errno.ENOSPC, "full"),
        OSError(errno.EIO, "Input/output error"),
    ],
)
def test_a_refused_commit_is_final(raised: Exception) -> None:
    with pytest.raises(ServiceError), commit_outcome("commit"):
        raise raised


PAGE = b"<html><body>200 says the gateway"


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6])
@pytest.mark.parametrize("rest", [b"", b"\x00", b"\x7f", b"\xff", b"\x81\x02"])
def test_a_metadata_file_that_comes_garbled_is_read_again(
    tmp_path: Path, share: float, rest: bytes
) -> None:
    config = config_at(tmp_path)
    catalog = catalog_of(config)
    table = create_table(catalog, NAME, SCHEMA, config)
    append(table, DataFileWriter(table, config).write([pa.table({"id": [1]})], batch_id="a"))
    snapshot = catalog.load_table(NAME).current_snapshot()
    assert snapshot is not None
    path = Path(snapshot.manifest_list.removeprefix("file://"))
    whole = path.read_bytes()
    begin = whole[: int(len(whole) * share)] or PAGE
    path.write_bytes((begin + rest * len(whole))[: len(whole) if rest else len(begin)])
    with pytest.raises(TransientError) as caught:
        read(catalog)
    assert caught.value.component is Component.STORAGE
    assert "damaged" in caught.value.remedy


def test_what_cannot_be_encoded_is_not_tried_again(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    catalog = catalog_of(config)
    table = create_table(catalog, NAME, SCHEMA, config)
    staged = DataFileWriter(table, config).write([pa.table({"id": [1]})], batch_id="a")
    file = data_file(table, staged[0])
    file[4] = "one"  # the record count
    update = table.transaction().update_snapshot().fast_append()
    update.append_data_file(file)
    with pytest.raises(ServiceError), translated("writing manifests"):
        update.commit()


def test_secrets_do_not_show_in_messages() -> None:
    text = without_secrets(
        "GET postgresql://me:hunter2@db/x Bearer abc.def-1 s3.secret-access-key=XYZ "
        '"password": "hunter2" token=t0k&x=1 https://h/?X-Amz-Signature=99ff'
    )
    for secret in ("hunter2", "abc.def-1", "XYZ", "t0k", "99ff"):
        assert secret not in text
    assert "x=1" in text


def test_statements_and_parameters_of_a_database_do_not_show() -> None:
    with pytest.raises(TransientError) as caught, translated("reading"):
        raise locked()
    assert "UPDATE" not in str(caught.value)
    assert "database is locked" in str(caught.value)


class _Answers(http.server.BaseHTTPRequestHandler):
    """Plays a REST catalog: `config` always works, the rest as the test says."""

    status: ClassVar[int] = 200
    delay: ClassVar[float] = 0.0
    body: ClassVar[str] = "{}"
    seen: ClassVar[list[dict[str, str]]]

    def do_GET(self) -> None:
        cls = type(self)
        cls.seen.append(dict(self.headers))
        config = "/v1/config" in self.path
        if not config:
            time.sleep(cls.delay)
        text = json.dumps({"defaults": {}, "overrides": {}}) if config else cls.body
        self.send_response(200 if config else cls.status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def rest_server(status: int = 200, delay: float = 0.0, body: str = "{}") -> Iterator[Any]:
    members = {"status": status, "delay": delay, "body": body, "seen": []}
    handler = type("Handler", (_Answers,), members)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield handler, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def rest_config(folder: Path, uri: str, **more: Any) -> Any:
    return config_at(folder, catalog_type="rest", rest_uri=uri, **more).iceberg


@pytest.mark.parametrize(
    ("status", "expected"),
    [(404, ServiceError), (401, ServiceError), (403, ServiceError)]
    + [(code, TransientError) for code in (429, 500, 502, 503, 504)],
)
def test_answers_of_a_rest_catalog_are_told(
    tmp_path: Path, status: int, expected: type[K2IError]
) -> None:
    with rest_server(status) as (_, uri):
        catalog = open_catalog(rest_config(tmp_path, uri), {})
        with pytest.raises(expected):
            read(catalog)


def test_an_answer_that_is_no_json_is_transient(tmp_path: Path) -> None:
    with rest_server(200, body="<html>") as (_, uri):
        catalog = open_catalog(rest_config(tmp_path, uri), {})
        with pytest.raises(TransientError):
            read(catalog)


def test_a_hung_rest_catalog_is_given_up_after_the_time_out(tmp_path: Path) -> None:
    with rest_server(200, delay=5.0) as (_, uri):
        config = rest_config(tmp_path, uri, rest={"request_timeout_seconds": 1})
        catalog = open_catalog(config, {})
        began = time.monotonic()
        with pytest.raises(TransientError):
            read(catalog)
        assert time.monotonic() - began < 4


def test_an_absent_rest_catalog_is_transient_and_names_no_secret(tmp_path: Path) -> None:
    config = rest_config(
        tmp_path, "http://127.0.0.1:9", rest={"credential_type": "bearer", "credential": "s3cret"}
    )
    with pytest.raises(TransientError) as caught:
        open_catalog(config, {"iceberg.rest.credential": "s3cret"})
    assert "s3cret" not in str(caught.value)


def test_token_and_headers_are_sent(tmp_path: Path) -> None:
    login = {"credential_type": "bearer", "credential": "t", "custom_headers": {"X-Realm": "r"}}
    with rest_server() as (handler, uri):
        secrets = {"iceberg.rest.credential": "t", "iceberg.rest.custom_headers.X-Realm": "r"}
        open_catalog(rest_config(tmp_path, uri, rest=login), secrets)
    assert handler.seen[0]["Authorization"] == "Bearer t"
    assert handler.seen[0]["X-Realm"] == "r"


@pytest.mark.parametrize(
    ("given", "uri"),
    [
        ("http://h:19120/api/v1", "http://h:19120/iceberg/dev"),
        ("http://h:19120", "http://h:19120/iceberg/dev"),
        ("http://h:19120/iceberg/", "http://h:19120/iceberg/dev"),
        ("http://h:19120/iceberg/other", "http://h:19120/iceberg/other"),
    ],
)
def test_nessie_is_reached_by_its_iceberg_address(tmp_path: Path, given: str, uri: str) -> None:
    from k2i_tasks.iceberg.catalog import _rest_uri

    nessie = {"default_branch": "dev"}
    config = config_at(tmp_path, catalog_type="nessie", rest_uri=given, nessie=nessie)
    assert _rest_uri(config.iceberg) == uri


def test_the_guard_lets_no_exception_of_pyiceberg_out(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    catalog, rival = catalog_of(config), catalog_of(config)
    assert guard_commits(catalog) is catalog
    table = create_table(catalog, NAME, SCHEMA, config)
    stale = catalog.load_table(NAME)
    rows = pa.table({"id": [1]})
    append(rival.load_table(NAME), DataFileWriter(table, config).write([rows], batch_id="a"))
    staged = DataFileWriter(table, config).write([rows], batch_id="b")
    with pytest.raises(CommitConflictError) as caught:
        append(stale, staged)
    assert isinstance(caught.value.__cause__, ice.CommitFailedException)
    assert read(catalog).num_rows == 1
    manifests = [p for p in (tmp_path / "warehouse").rglob("*.avro") if p.name.startswith("snap")]
    assert len(manifests) == 2, "the refused commit's files must not be deleted"


def test_a_locked_sqlite_catalog_is_waited_for_then_unknown(tmp_path: Path) -> None:
    config = config_at(tmp_path, catalog_manager={"request_timeout_seconds": 1})
    catalog = catalog_of(config)
    table = create_table(catalog, NAME, SCHEMA, config)
    staged = DataFileWriter(table, config).write([pa.table({"id": [1]})], batch_id="a")
    with sqlite3.connect(tmp_path / "catalog.db", isolation_level=None) as lock:
        lock.execute("BEGIN IMMEDIATE")
        with pytest.raises(CommitStateUnknownError, match="locked"):
            append(table, staged)
        lock.execute("ROLLBACK")
    lock.close()
    append(catalog.load_table(NAME), staged)
    assert read(catalog)["id"].to_pylist() == [1]


@pytest.mark.parametrize(
    ("url", "database"),
    [
        ("sqlite:///{d}/a/c.db", "a/c.db"),
        ("sqlite:{d}/c.db", "c.db"),
        ("sqlite:///b/c.db", "b/c.db"),
        ("sqlite://c.db", "c.db"),
        ("sqlite:c.db", "c.db"),
    ],
)
def test_sqlite_urls_name_an_absolute_file_whose_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, database: str
) -> None:
    monkeypatch.chdir(tmp_path)
    sql = {"url": url.format(d=tmp_path)}
    found = make_url(sql_url(config_at(tmp_path, sql_catalog=sql).iceberg))
    assert found.database == str(tmp_path / database)
    assert found.query["timeout"] == "30"
    assert (tmp_path / database).parent.is_dir()


def test_a_database_in_memory_is_refused(tmp_path: Path) -> None:
    config = config_at(tmp_path, sql_catalog={"url": "sqlite:///:memory:"})
    with pytest.raises(ConfigError, match="must name a file"):
        sql_url(config.iceberg)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"warehouse_path": "s3://b/wh/"}, "s3://b/wh"),
        ({"warehouse_path": "/a/b"}, "/a/b"),
        ({"warehouse_path": "az://c/p", "azure_storage_account_name": "a"}, "abfs://c/p"),
        ({"warehouse_path": "gs:///p", "gcs_bucket_name": "b"}, "gs://b/p"),
        (
            {"warehouse_path": "wh", "object_store": {"type": "s3", "root": "bucket"}},
            "s3://bucket/wh",
        ),
        ({"warehouse_path": "prod", "catalog_type": "rest", "rest_uri": "http://h"}, "prod"),
    ],
)
def test_the_warehouse_is_found(tmp_path: Path, given: dict[str, Any], expected: str) -> None:
    assert warehouse_location(config_at(tmp_path, **given).iceberg) == expected

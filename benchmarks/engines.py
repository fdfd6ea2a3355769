"""How each engine is started on a topic; catalog and commit interval are the same for all.

Ours commits after 100,000 rows, too, as it does by default.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from pyiceberg.catalog.rest import RestCatalog

from benchmarks.ingested import BUFFER_MB, ENVIRON
from benchmarks.topic import SCHEMA, Topic
from tests.program import Program
from tests.stack import maven
from tests.stack.programs import HOST, find_jdk, free_port
from tests.stack.services import Kafka
from tests.support import CatalogAt

PEERS = Path(__file__).resolve().parent / "peers"
NAMESPACE = "tests"
#: Names the program of K2I in Rust, built by `cargo build --release` in its repository.
RUST_BINARY = "RUST_K2I"
#: Processes that share the topic: as many as Flink has slots, Connect tasks and Spark threads.
MEMBERS = 2
#: Columns of the table that it fills with bytes.
RAW = pa.schema(
    [
        ("key", pa.binary()),
        ("value", pa.binary()),
        pa.field("topic", pa.string(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("timestamp", pa.int64(), nullable=False),
    ]
)
#: What Flink and Spark need of a Java that closes its packages.
OPENS = [
    f"--add-opens=java.base/{package}=ALL-UNNAMED"
    for package in (
        "java.io",
        "java.lang",
        "java.lang.invoke",
        "java.lang.reflect",
        "java.net",
        "java.nio",
        "java.time",
        "java.util",
        "java.util.concurrent",
        "java.util.concurrent.atomic",
        "jdk.internal.ref",
        "sun.nio.ch",
        "sun.nio.cs",
        "sun.security.action",
        "sun.util.calendar",
    )
]


@dataclass(frozen=True, slots=True)
class Job:
    """One run of one engine.

    Args:
        topic: what it reads.
        catalog: where its table is.
        table: the table's name in the namespace `tests`.
        folder: for its files.
        interval_seconds: how often it commits.
        broker: the broker's service, whose jars hold Kafka Connect.
        rest: a client of the catalog.
        services: pids of broker and catalog.
    """

    topic: Topic
    catalog: CatalogAt
    table: str
    folder: Path
    interval_seconds: float
    broker: Kafka
    rest: RestCatalog
    services: tuple[int, ...] = ()

    @property
    def identifier(self) -> str:
        return f"{NAMESPACE}.{self.table}"

    def make_table(self, schema: pa.Schema = SCHEMA) -> None:
        """The table that a peer fills, typed unless told otherwise."""
        self.rest.create_namespace_if_not_exists(NAMESPACE)
        properties = {"format-version": "2", "write.parquet.compression-codec": "zstd"}
        self.rest.create_table(self.identifier, schema, properties=properties)


@dataclass(frozen=True, slots=True)
class Started:
    """What is to be run: words of the command, and variables beside those of this process."""

    words: list[str | Path]
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Engine:
    """One way from the topic to a table.

    Args:
        title: as people are told.
        prepare: makes a run ready, and says how to start it.
        typed: whether the events' fields become columns.
        table: whether there is a table in the end; an engine without one ends by itself.
        files: whether an engine without a table leaves Parquet files in the job's folder.
        coordinates: columns of Kafka's partition and offset, for rows that are not typed.
        by_name: whether its files have no field ids, so that they are read by names, not through
            the table, which would show nulls.
    """

    title: str
    prepare: Callable[[Job], Started]
    typed: bool = True
    table: bool = True
    files: bool = False
    coordinates: tuple[str, str] = ("_kafka_partition", "_kafka_offset")
    by_name: bool = False


def _k2i(job: Job, form: str) -> Started:
    program = Program(
        job.folder,
        job.topic.bootstrap,
        job.topic.name,
        job.catalog,
        extra="[prefect]\nenabled = false\n",
    )
    environ = {
        **ENVIRON,
        "K2I_ICEBERG_TABLE_NAME": job.table,
        "K2I_KAFKA_FORMAT_TYPE": form,
        "K2I_BUFFER_FLUSH_INTERVAL_SECONDS": str(job.interval_seconds),
    }
    words = ["-m", "k2i_tasks.cli", "ingest", "--config", str(program.config), "--no-prefect"]
    return Started([sys.executable, *words, "--plain"], environ)


def _members(job: Job) -> Started:
    """One process for each processor that a peer has, in a group; together they have the memory."""
    alone = _k2i(job, "json")
    environ = {
        **alone.environ,
        "K2I_KAFKA_ASSIGNMENT": "group",
        # So that the first one hears of the second before it has read much.
        "K2I_KAFKA_HEARTBEAT_INTERVAL_MS": "200",
        "K2I_BUFFER_MAX_SIZE_MB": str(BUFFER_MB // MEMBERS),
    }
    members = (PEERS / "members.py", str(MEMBERS), job.folder)
    return Started([sys.executable, *members, *alone.words], environ)


def rust_k2i(
    job: Job, *, rows: int = 100_000, buffer_mb: int = BUFFER_MB, extra: str = ""
) -> Started:
    """K2I in Rust, raw.

    Args:
        job: what it does.
        rows: after which it flushes, if the interval has not passed before.
        buffer_mb: size of its buffer.
        extra: further TOML.
    """
    job.make_table(RAW)
    config = job.folder / "k2i.toml"
    config.write_text(
        f"""
        [kafka]
        bootstrap_servers = ["{job.topic.bootstrap}"]
        topic = "{job.topic.name}"
        consumer_group = "{job.table}"
        batch_size = 20000
        batch_timeout_ms = 500
        auto_offset_reset = "earliest"
        [kafka.format]
        type = "raw"
        [iceberg]
        catalog_type = "rest"
        rest_uri = "{job.catalog.uri}"
        warehouse_path = "{urlsplit(job.catalog.warehouse).path}"
        database_name = "{NAMESPACE}"
        table_name = "{job.table}"
        compression = "zstd"
        [buffer]
        max_size_mb = {buffer_mb}
        flush_interval_seconds = {max(1, round(job.interval_seconds))}
        flush_batch_size = {rows}
        [transaction_log]
        log_dir = "{job.folder / "log"}"
        [monitoring]
        metrics_port = {free_port()}
        health_port = {free_port()}
        log_level = "warn"
        {extra}
        """,
        encoding="utf-8",
    )
    return Started([os.environ[RUST_BINARY], "--config", config, "ingest"])


def _plain(job: Job) -> Started:
    job.make_table()
    at = (job.catalog.uri, job.catalog.warehouse, job.identifier)
    words = (job.topic.bootstrap, job.topic.name, *at, str(job.interval_seconds))
    return Started([sys.executable, PEERS / "plain.py", *words])


def _drain(job: Job) -> Started:
    words = (job.topic.bootstrap, job.topic.name, str(job.topic.messages))
    return Started([sys.executable, PEERS / "drain.py", *words])


def _chain(job: Job) -> Started:
    place = (job.topic.bootstrap, job.topic.name, str(job.topic.messages), str(job.folder))
    return Started([sys.executable, "-m", "benchmarks.peers.chain", *place])


def _spark(job: Job) -> Started:
    job.make_table()
    cache = job.broker.settings.cache
    library = maven.fetch(cache, "bench-spark", PEERS / "spark.pom.xml")
    classes = maven.compile_java(cache, "bench-spark", library, PEERS, "SparkJob.java")
    java: list[str | Path] = [find_jdk() / "bin" / "java", "-Xms512m", "-Xmx3g", *OPENS]
    handles = "-Djdk.reflect.useDirectMethodHandle=false"
    at = (job.catalog.uri, job.catalog.warehouse, NAMESPACE, job.table)
    every = str(max(1, round(job.interval_seconds)))
    words = (job.topic.bootstrap, job.topic.name, *at, every, str(job.folder))
    return Started([*java, handles, "-cp", f"{classes}:{library}/*", "SparkJob", *words])


def _flink(job: Job) -> Started:
    job.make_table()
    cache = job.broker.settings.cache
    library = maven.fetch(cache, "bench-flink", PEERS / "flink.pom.xml")
    classes = maven.compile_java(cache, "bench-flink", library, PEERS, "FlinkJob.java")
    java: list[str | Path] = [find_jdk() / "bin" / "java", "-Xms512m", "-Xmx2g", *OPENS]
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
    at = (job.catalog.uri, job.catalog.warehouse, NAMESPACE, job.table)
    every = str(max(1, round(job.interval_seconds)))
    words = (job.topic.bootstrap, job.topic.name, *at, every, str(job.folder), str(free_port()))
    return Started([*java, quiet, "-cp", f"{classes}:{library}/*", "FlinkJob", *words])


def _connect(job: Job) -> Started:
    job.make_table()
    library = maven.fetch(job.broker.settings.cache, "bench-connect", PEERS / "connect.pom.xml")
    plugins = job.folder / "plugins"
    plugins.mkdir()
    (plugins / "iceberg").symlink_to(library)
    control = f"control-{job.table}"
    admin = AdminClient({"bootstrap.servers": job.topic.bootstrap})
    admin.create_topics([NewTopic(control, 1, 1)])[control].result(30)
    worker = {
        "bootstrap.servers": job.topic.bootstrap,
        "listeners": f"http://{HOST}:{free_port()}",
        "key.converter": "org.apache.kafka.connect.storage.StringConverter",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter.schemas.enable": "false",
        "offset.storage.file.filename": job.folder / "offsets",
        "offset.flush.interval.ms": round(job.interval_seconds * 1000),
        "plugin.discovery": "only_scan",
        "plugin.path": plugins,
    }
    sink = {
        "name": job.table,
        "connector.class": "org.apache.iceberg.connect.IcebergSinkConnector",
        "tasks.max": 2,
        "topics": job.topic.name,
        "consumer.override.auto.offset.reset": "earliest",
        "iceberg.tables": job.identifier,
        "iceberg.control.topic": control,
        "iceberg.control.group-id-prefix": control,
        "iceberg.control.commit.interval-ms": round(job.interval_seconds * 1000),
        "iceberg.catalog.type": "rest",
        "iceberg.catalog.uri": job.catalog.uri,
        "iceberg.catalog.warehouse": job.catalog.warehouse,
    }
    files = []
    for name, settings in (("worker", worker), ("sink", sink)):
        files.append(job.folder / f"{name}.properties")
        files[-1].write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    java: list[str | Path] = [find_jdk() / "bin" / "java", "-Xms512m", "-Xmx3g"]
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
    main = "org.apache.kafka.connect.cli.ConnectStandalone"
    return Started([*java, quiet, "-cp", job.broker.classpath(), main, *files])


ENGINES: dict[str, Engine] = {
    "drain": Engine("librdkafka alone, no table", _drain, typed=False, table=False),
    "k2i": Engine("K2I for Python", lambda job: _k2i(job, "json")),
    "k2i-group": Engine(f"K2I for Python, {MEMBERS} processes", _members),
    "k2i-raw": Engine("K2I for Python, raw bytes", lambda job: _k2i(job, "raw"), typed=False),
    "k2i-rust": Engine(
        "K2I in Rust, raw bytes",
        rust_k2i,
        typed=False,
        coordinates=("partition", "offset"),
        by_name=True,
    ),
    "chain": Engine("one thread to files, no table", _chain, table=False, files=True),
    "plain": Engine("plain Python loop", _plain),
    "spark": Engine("Spark Structured Streaming", _spark),
    "flink": Engine("Flink SQL sink", _flink),
    "connect": Engine("Kafka Connect sink, 2 tasks", _connect),
}
#: Needed by those on the Java side.
JAVA = ("flink", "connect", "spark")


def can_run(name: str) -> str:
    """Why an engine cannot run on this machine; empty if it can."""
    if shutil.which("ss") is None:
        return "the command ss (of iproute2) is needed to see when the first bytes come"
    if name == "k2i-rust" and not os.environ.get(RUST_BINARY):
        return f"the variable {RUST_BINARY} has to name its program"
    if name in JAVA and shutil.which("mvn") is None:
        return "Maven is needed to fetch it"
    return "" if os.path.isdir("/proc/self") else "needs Linux's /proc"

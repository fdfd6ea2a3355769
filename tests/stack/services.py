"""The services: a Kafka broker, an Iceberg REST catalog twice, S3, and a schema registry."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from . import s3
from .programs import HOST, find_jdk, http_status, run
from .service import JavaService, Service, Settings

BUCKET = "warehouse"


class Kafka(JavaService):
    """One KRaft node, broker and controller, with a plain listener and one with TLS and login."""

    name = "kafka"
    summary = "Kafka broker: plaintext, and SASL_SSL (SCRAM-SHA-256, SCRAM-SHA-512, PLAIN)"
    ports: ClassVar[Mapping[str, int]] = {"": 29092, "controller": 29093, "sasl": 29094}
    heap = "512m"
    #: user -> password, for every mechanism.
    users: ClassVar[Mapping[str, str]] = {"alice": "alice-secret", "bob": "bob-secret"}
    #: The password of the key store, which Java wants one of.
    store_password = "stack-store"

    @property
    def config(self) -> Path:
        return self.dir / "server.properties"

    @property
    def ca_file(self) -> Path:
        return self.dir / "ca.crt"

    def prepare(self) -> None:
        self._make_certificate()
        text = "".join(f"{key}={value}\n" for key, value in self._properties().items())
        self.config.write_text(text, encoding="utf-8")
        if not (self.data / "meta.properties").exists():
            self._format()

    def _properties(self) -> dict[str, str | Path]:
        listeners = f"PLAINTEXT://{HOST}:{self.port()},SASL://{HOST}:{self.port('sasl')}"
        controller = f"{HOST}:{self.port('controller')}"
        users = " ".join(f'user_{user}="{word}"' for user, word in self.users.items())
        security = "org.apache.kafka.common.security"
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"{listeners},CONTROLLER://{controller}",
            "advertised.listeners": listeners,
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
            "SASL:SASL_SSL",
            "inter.broker.listener.name": "PLAINTEXT",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512,SCRAM-SHA-256,PLAIN",
            "listener.name.sasl.plain.sasl.jaas.config": f"{security}.plain.PlainLoginModule"
            f" required {users};",
            "listener.name.sasl.scram-sha-256.sasl.jaas.config": f"{security}.scram."
            "ScramLoginModule required;",
            "listener.name.sasl.scram-sha-512.sasl.jaas.config": f"{security}.scram."
            "ScramLoginModule required;",
            "ssl.keystore.type": "PKCS12",
            "ssl.keystore.location": self._key_store,
            "ssl.keystore.password": self.store_password,
            "log.dirs": self.data,
            "num.partitions": "4",
            "auto.create.topics.enable": "false",
            # One broker: the internal topics cannot have the default three replicas.
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "5",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "5",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            # So that a test need not wait 6 s for the group to drop a member that died.
            "group.min.session.timeout.ms": "1000",
        }

    @property
    def _key_store(self) -> Path:
        return self.dir / "server.p12"

    def _make_certificate(self) -> None:
        """A key pair for the loopback names, and its certificate for clients to trust, as PEM."""
        if self.ca_file.exists():
            return
        keytool = find_jdk() / "bin" / "keytool"
        store = ["-keystore", str(self._key_store), "-storepass", self.store_password]
        key = ["-keyalg", "EC", "-groupname", "secp256r1", "-storetype", "PKCS12"]
        names = ["-dname", "CN=localhost", "-ext", f"SAN=IP:{HOST},DNS:localhost"]
        days = ["-validity", "3650"]
        alias = ["-alias", "kafka"]
        run([keytool, "-genkeypair", *store, *key, *names, *days, "-ext", "bc=ca:true", *alias])
        run([keytool, "-exportcert", *store, *alias, "-rfc", "-file", self.ca_file])

    def _format(self) -> None:
        scram = [
            f"--add-scram=SCRAM-SHA-{bits}=[name={user},password={word}]"
            for user, word in self.users.items()
            for bits in (256, 512)
        ]
        cluster = "c3RhY2stdGVzdC1rYWZrYQ"  # any 16 bytes in base64
        tool = ["kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self.config), *scram]
        run(self.java_command("-cp", self.classpath(), *tool), cwd=self.dir)

    def command(self) -> list[str | Path]:
        log_time = "-Dorg.slf4j.simpleLogger.showDateTime=true"
        return self.java_command(log_time, "-cp", self.classpath(), "kafka.Kafka", self.config)

    def ready(self) -> bool:
        return kafka_answers(self.port())

    def client(self) -> dict[str, str]:
        return {
            "KAFKA_BOOTSTRAP": f"{HOST}:{self.port()}",
            "KAFKA_BOOTSTRAP_SASL_SSL": f"{HOST}:{self.port('sasl')}",
            "KAFKA_CA": str(self.ca_file),
            "KAFKA_USER": "alice",
            "KAFKA_PASSWORD": self.users["alice"],
        }


def kafka_answers(port: int) -> bool:
    """Whether a broker answers ApiVersions (version 0) without an error."""
    body = struct.pack(">hhih", 18, 0, 1, -1)
    with socket.create_connection((HOST, port), timeout=2) as connection:
        connection.sendall(struct.pack(">i", len(body)) + body)
        answer = connection.recv(10)
    return len(answer) == 10 and struct.unpack(">iih", answer)[2] == 0


class S3Proxy(JavaService):
    """S3 over a local folder."""

    name = "s3proxy"
    summary = "S3: S3Proxy over a local folder"
    ports: ClassVar[Mapping[str, int]] = {"": 29030}

    def prepare(self) -> None:
        lines = {
            "s3proxy.endpoint": self.url(),
            "s3proxy.authorization": "aws-v2-or-v4",
            "s3proxy.identity": s3.ACCESS_KEY,
            "s3proxy.credential": s3.SECRET_KEY,
            "jclouds.provider": "filesystem-nio2",
            "jclouds.filesystem.basedir": self.data,
        }
        text = "".join(f"{key}={value}\n" for key, value in lines.items())
        (self.dir / "s3proxy.properties").write_text(text, encoding="utf-8")

    def command(self) -> list[str | Path]:
        jar = next(self.lib.glob("s3proxy-*.jar"))
        return self.java_command("-jar", jar, "--properties", "s3proxy.properties")

    def ready(self) -> bool:
        return s3.list_buckets(self.url()) == 200

    def after_start(self) -> None:
        s3.create_bucket(self.url(), BUCKET)

    def client(self) -> dict[str, str]:
        return {
            "S3_ENDPOINT": self.url(),
            "S3_REGION": s3.REGION,
            "S3_ACCESS_KEY": s3.ACCESS_KEY,
            "S3_SECRET_KEY": s3.SECRET_KEY,
            "S3_BUCKET": BUCKET,
        }


class IcebergRest(JavaService):
    """Iceberg's reference REST catalog on SQLite, with the warehouse in a local folder."""

    name = "iceberg-rest"
    pom = "iceberg-rest"
    summary = "Iceberg REST catalog, warehouse in a local folder; faults at /__faults"
    ports: ClassVar[Mapping[str, int]] = {"": 28181}
    own_source = "org/apache/iceberg/rest/StackCatalogServer.java"

    def warehouse(self) -> str:
        return (self.dir / "warehouse").resolve().as_uri()

    def catalog_options(self) -> list[str]:
        """Options of the server class; its source lists them."""
        return []

    def command(self) -> list[str | Path]:
        properties = {
            "catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog",
            "uri": f"jdbc:sqlite:{self.data}/catalog.db?journal_mode=WAL&busy_timeout=20000",
            "jdbc.schema-version": "V1",
            # SQLite has one writer at a time; more connections only wait for one another.
            "clients": "1",
            "warehouse": self.warehouse(),
        }
        return self.java_command(
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-cp",
            self.classpath(),
            "org.apache.iceberg.rest.StackCatalogServer",
            *("--host", HOST, "--port", str(self.port())),
            *_repeated("--catalog", properties),
            *self.catalog_options(),
        )

    def ready(self) -> bool:
        return http_status(f"{self.url()}/v1/config") == 200

    def client(self) -> dict[str, str]:
        prefix = self.name.upper().replace("-", "_")
        return {f"{prefix}_URI": self.url(), f"{prefix}_WAREHOUSE": self.warehouse()}


class IcebergRestS3(IcebergRest):
    """The same catalog, with the warehouse on S3."""

    name = "iceberg-rest-s3"
    summary = "Iceberg REST catalog, warehouse on S3, which hands the S3 keys to its clients"
    ports: ClassVar[Mapping[str, int]] = {"": 28182}
    needs = (S3Proxy.name,)

    def warehouse(self) -> str:
        return f"s3://{BUCKET}/rest"

    def catalog_options(self) -> list[str]:
        properties = {
            "s3.endpoint": self.others[S3Proxy.name].url(),
            "s3.access-key-id": s3.ACCESS_KEY,
            "s3.secret-access-key": s3.SECRET_KEY,
            "s3.path-style-access": "true",
        }
        own = {"io-impl": "org.apache.iceberg.aws.s3.S3FileIO", "client.region": s3.REGION}
        return [
            *_repeated("--catalog", {**properties, **own}),
            *_repeated("--table-config", {**properties, "s3.region": s3.REGION}),
        ]


class Apicurio(JavaService):
    """A schema registry with Confluent's API, on a database in a local folder."""

    name = "apicurio"
    summary = "Schema registry: Apicurio with its Confluent-compatible API"
    ports: ClassVar[Mapping[str, int]] = {"": 28081, "management": 28082}
    java = 21

    def command(self) -> list[str | Path]:
        tmp = self.dir / "tmp"
        properties = {
            "quarkus.http.host": HOST,
            "quarkus.http.port": self.port(),
            "quarkus.management.host": HOST,
            "quarkus.management.port": self.port("management"),
            "apicurio.datasource.url": f"jdbc:h2:file:{self.data}/registry",
            # By default it opens 20 connections to its own in-process database.
            "apicurio.datasource.jdbc.initial-size": 2,
            "apicurio.datasource.jdbc.min-size": 2,
            "apicurio.datasource.jdbc.max-size": 8,
            "apicurio.storage.snapshot.location": tmp,
            "apicurio.import.work-dir": tmp,
        }
        options = [f"-D{key}={value}" for key, value in properties.items()]
        return self.java_command(*options, "-jar", self.lib / "quarkus-run.jar")

    def ready(self) -> bool:
        return http_status(f"{self.url()}/apis/ccompat/v7/subjects") == 200

    def client(self) -> dict[str, str]:
        return {"SCHEMA_REGISTRY_URL": f"{self.url()}/apis/ccompat/v7"}


def _repeated(option: str, pairs: Mapping[str, str]) -> list[str]:
    return [word for key, value in pairs.items() for word in (option, f"{key}={value}")]


SERVICES: tuple[type[Service], ...] = (Kafka, S3Proxy, IcebergRest, IcebergRestS3, Apicurio)


def build(settings: Settings) -> dict[str, Service]:
    """All services by name, each knowing the others."""
    services: dict[str, Service] = {}
    for kind in SERVICES:
        services[kind.name] = kind(settings, services)
    return services

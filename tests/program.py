"""The program as a user runs it: a configuration file and a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, ClassVar

from pyiceberg.table import Table

from k2i_tasks import secrets
from k2i_tasks.config import load_config
from k2i_tasks.iceberg.catalog import find_table, open_catalog
from tests.forks import Forked
from tests.support import CatalogAt

TIMEOUT_SECONDS = 120
Process = subprocess.Popen[str] | Forked


@dataclass
class Program:
    """One ingestion: its folder, its topic, its table.

    Args:
        folder: for the configuration, the log, and (with a SQL catalog) the warehouse.
        bootstrap: the broker.
        topic: the topic; also the table's name.
        rest: a REST catalog; None for SQLite in the folder.
        extra: further TOML, after all else.
        routing: TOML of `[routing]`, in place of the topic and its table.
        environ: further variables.
        tracked: whether it is shown in Prefect, as the environment says where.
        prefix: what its command begins with, to be run somewhere else.
        module: what is run; another has to end in `k2i_tasks.cli.main`.
        fresh: whether its processes begin from nothing, always.

    Attributes:
        forks: whether processes are forked where they can be, for all of these. The tests do so;
            a benchmark starts the program as its users do.
    """

    forks: ClassVar[bool] = False
    folder: Path
    bootstrap: str
    topic: str
    rest: CatalogAt | None = None
    extra: str = ""
    routing: str = ""
    environ: dict[str, str] = field(default_factory=dict)
    tracked: bool = False
    prefix: tuple[str, ...] = ()
    module: str = "k2i_tasks.cli"
    fresh: bool = False

    @property
    def table(self) -> str:
        return self.topic.replace("-", "_")

    @property
    def config(self) -> Path:
        path, text = self.folder / "k2i.toml", self._toml()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            # At once: a run that is starting may be reading it.
            fresh = path.with_suffix(".new")
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(path)
        return path

    def _toml(self) -> str:
        topic = "" if self.routing else f'topic = "{self.topic}"'
        table = "" if self.routing else f'table_name = "{self.table}"'
        return f"""
[kafka]
bootstrap_servers = ["{self.bootstrap}"]
{topic}
consumer_group = "test-{self.topic}"
batch_size = 5000
auto_offset_reset = "earliest"
format = {{ type = "json" }}

[iceberg]
database_name = "tests"
{table}
compression = "zstd"
{self._catalog()}

[buffer]
flush_interval_seconds = 0.2
flush_batch_size = 2000
encode_rows = 300
max_size_mb = 64

[transaction_log]
log_dir = "{self.folder}/wal"

[monitoring]
health_port = 0
metrics_port = 0
log_format = "text"

[run]
drain_timeout_seconds = 60
retry_budget_seconds = 30
{self.routing}
{self.extra}
"""

    def _catalog(self) -> str:
        if self.rest is None:
            return f"""catalog_type = "sql"
warehouse_path = "file://{self.folder}/warehouse"
sql_catalog = {{ type = "sqlite", url = "sqlite:///{self.folder}/catalog.db" }}"""
        lines = [
            'catalog_type = "rest"',
            f'rest_uri = "{self.rest.uri}"',
            f'warehouse_path = "{self.rest.warehouse}"',
        ]
        store = self.rest.store
        if store:
            lines += [
                f's3_endpoint = "{store["s3.endpoint"]}"',
                f'aws_region = "{store["s3.region"]}"',
                f'aws_access_key_id = "{store["s3.access-key-id"]}"',
                f'aws_secret_access_key = "{store["s3.secret-access-key"]}"',
            ]
        return "\n".join(lines)

    def start(
        self,
        *arguments: str,
        stdout: int | IO[str] = subprocess.PIPE,
        environ: Mapping[str, str] | None = None,
    ) -> Process:
        """Starts `k2i ingest`."""
        plain = ("--plain", *(() if self.tracked else ("--no-prefect",)), *arguments)
        return self.command("ingest", *plain, stdout=stdout, environ=environ)

    def command(
        self,
        name: str,
        *arguments: str,
        stdout: int | IO[str] = subprocess.PIPE,
        environ: Mapping[str, str] | None = None,
    ) -> Process:
        """Starts one command of `k2i`; its errors go where its output goes."""
        # The configuration is an option of the innermost command: "dead-letters replay".
        words = [*name.split(), "--config", str(self.config), *arguments]
        variables = {**os.environ, **self.environ, **(environ or {})}
        # Only what loads the most: other commands are to load what they need by themselves.
        plain = self.fresh or self.prefix or self.tracked
        if self.forks and name == "ingest" and not plain:
            return Forked(self.module, words, variables, stdout)
        return subprocess.Popen(
            [*self.prefix, sys.executable, "-m", self.module, *words],
            stdout=stdout,
            stderr=subprocess.STDOUT,
            text=True,
            env=variables,
        )

    def run(self, *arguments: str, environ: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Runs `k2i ingest` to its end; exit code and output."""
        return finished(self.start(*arguments, environ=environ))

    def load_table(self, table: str | None = None) -> Table | None:
        """The table (or another beside it) as its catalog has it now; None if it is not there."""
        config = load_config(self.config, environ={}, overrides={})
        catalog = open_catalog(config.iceberg, secrets.resolve_all(config))
        return find_table(catalog, ("tests", table or self.table))

    def metadata_location(self, table: str | None = None) -> str:
        """Where the table's newest metadata file is, asked of the catalog."""
        found = self.load_table(table)
        assert found is not None, f"there is no table {table or self.table}"
        return found.metadata_location


def finished(process: Process) -> tuple[int, str]:
    """Waits until the process has ended by itself; exit code and output."""
    try:
        output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        raise AssertionError(f"did not end within {TIMEOUT_SECONDS} s:\n{output}") from None
    return process.wait(), output

"""The configuration of a run that is given none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from k2i_tasks.config.environment import from_environment
from k2i_tasks.config.load import load_config
from k2i_tasks.config.model import Config

#: Stands for the broker in the process until the run puts its address there.
EMBEDDED = "embedded"


def demo_config(data_dir: Path) -> Config:
    """Everything in one folder: SQLite catalog, warehouse, log; the broker is the run's own.

    Args:
        data_dir: the folder; need not exist.
    """
    folder = data_dir.absolute()
    return Config.model_validate(
        {
            "kafka": {
                "bootstrap_servers": [EMBEDDED],
                "topic": "orders",
                "consumer_group": "k2i-demo",
                "format": {"type": "json"},
            },
            "iceberg": {
                "catalog_type": "sql",
                "warehouse_path": f"file://{folder}/warehouse",
                "database_name": "demo",
                "table_name": "orders",
                "compression": "zstd",
                "partition_spec": [{"source_field": "event_time", "transform": "day"}],
                "sql_catalog": {"type": "sqlite", "url": f"sqlite:///{folder}/catalog.db"},
            },
            # Rows must not be what seals a batch here: the two seconds are.
            "buffer": {
                "flush_interval_seconds": 2.0,
                "max_size_mb": 100,
                "flush_batch_size": 1_000_000,
            },
            "transaction_log": {"log_dir": f"{folder}/wal"},
            "monitoring": {"log_format": "text"},
            "prefect": {"start_server": True},
            "run": {"data_dir": str(folder)},
        }
    )


def load_demo(
    data_dir: Path, *, environ: Mapping[str, str], overrides: Mapping[str, Any]
) -> Config:
    """The demo's configuration under the environment, under overrides.

    Args:
        data_dir: the folder; need not exist.
        environ: such as `os.environ`.
        overrides: `section.key` to value.

    Raises:
        ConfigError: it is wrong; names the key.
    """
    demo = demo_config(data_dir).model_dump(exclude_unset=True)
    from_outside = from_environment(environ)
    base = {key: value for key, value in dotted(demo) if tuple(key.split(".")) not in from_outside}
    return load_config(None, environ=environ, overrides=base | dict(overrides))


def dotted(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each `section.key` of nested tables with its value."""
    for key, value in tables.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value

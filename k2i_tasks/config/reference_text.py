"""The part of the configuration reference that no model can tell."""

from __future__ import annotations

HEAD = """\
# Configuration

<!-- Written by `python -m k2i_tasks.config.reference`; change the model, not this file. -->

One TOML file, then `K2I_*` environment variables over it, then the options of the command line
over both. `k2i validate --config config.toml` checks all of it and names the key of what is wrong.

```toml
format_version = 1

[kafka]
bootstrap_servers = ["127.0.0.1:9092"]
topic = "orders"
consumer_group = "k2i-orders"
format = { type = "json" }

[iceberg]
catalog_type = "rest"
rest_uri = "http://127.0.0.1:8181"
warehouse_path = "s3://lake/warehouse"
database_name = "shop"
table_name = "orders"
```

`examples/` has this and more. Without any file, `python flows/ingest.py` runs the demo.

## Strict files, and K2I's own

In our files an unknown key is an error that names the nearest known one. K2I ignores unknown keys,
so in its own files they are ignored too; each is reported as a warning. Whose a file is:

1. `format_version = 1` at the top: ours, strict. Put it in every new file.
2. It has a key that K2I does not know (marked *not in K2I* below), or a near miss of one, or a
   secret given as `env:` or `file:`: ours, strict.
3. It has a mark of K2I's first form (below): K2I's first form.
4. It has all seven keys that K2I 0.3.0 requires (`kafka.bootstrap_servers`, `topic`,
   `consumer_group`; `iceberg.catalog_type`, `warehouse_path`, `database_name`, `table_name`):
   K2I's own.
5. Anything else: ours, strict. K2I would not start with it either.

Both of K2I's forms run as they are (`examples/k2i-0.3.toml`, `examples/k2i-first.toml`). In them

- `kafka.batch_size` is 1000 when not given, as in K2I;
- a secret is taken as it is written, whatever it begins with; `{ file = "..." }` works;
- `sqlite:///srv/catalog.db` is an absolute path, as in K2I; in our files it is SQLAlchemy's URL,
  where an absolute path has four slashes;
- health and metrics are served on 127.0.0.1, where K2I listens on all interfaces;
- `kafka.format.type = "json"` makes typed columns, where K2I keeps the bytes;
- a field of `iceberg.partition_spec` that is no column is left out: K2I does not use the spec;
- a `K2I_` variable that is no setting is reported and ignored.

The first form, of K2I's first README, has these names for keys of today:

| First form | Today |
| --- | --- |
| `kafka.bootstrap_servers = "a:9092,b:9092"` | `kafka.bootstrap_servers = ["a:9092", "b:9092"]` |
| `kafka.group_id` | `kafka.consumer_group` |
| `iceberg.warehouse` | `iceberg.warehouse_path` |
| `iceberg.database`, `iceberg.table` | `iceberg.database_name`, `iceberg.table_name` |
| `storage.type`, `bucket` | part of `iceberg.warehouse_path`, where that has no `scheme://` |
| `storage.region` | `iceberg.aws_region` |
| `server.health_port`, `metrics_port` | `monitoring.health_port`, `metrics_port` |

## Secrets

A secret is one of

- a text, taken as it is;
- `env:NAME`, an environment variable;
- `file:/path` or `{ file = "/path" }`, a file of at most 64 KiB; white space around it is cut;
- `{ value = "..." }`, a text that happens to begin with `env:` or `file:`.

References are followed when the run starts. No secret is ever part of a log line, an error or a
dump of the configuration.

## Environment

The variable of each key is in the tables: `K2I_` and its path in capitals. Booleans are `true`,
`1`, `yes`, `on` or `false`, `0`, `no`, `off`; lists are separated by commas; tables and lists of
tables are JSON, such as
`K2I_ICEBERG_PARTITION_SPEC='[{"source_field": "event_time", "transform": "day"}]'`. An empty text
takes back a key that need not be given. A `K2I_` variable that is no key is an error that names the
nearest one, except `K2I_CONFIG`, `K2I_TEST_*`, those of K2I's own tools (`K2I_E2E_*`,
`K2I_PARQUET_*`, `K2I_RELEASE_*`, `K2I_ICEBERG_METADATA_PATH`), and those that Kubernetes sets for a
service named `k2i`.

## Settings

"""

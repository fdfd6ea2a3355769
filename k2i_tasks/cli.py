"""The command line, `k2i`. Each command imports what it needs, so that the others start at once.

Exit codes are K2I's: 0 done, 1 configuration (a wrong option or query too), 2 Kafka, 3 Iceberg,
4 storage, 5 transaction log, 6 health, 10 anything else, 130 interrupted. Two more are ours, of
`verify`: 7 the table is not the topic, 8 that could not be said of all of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from k2i_tasks import __version__, cli_dead_letters
from k2i_tasks.cli_frame import COMPLETE_VARIABLE, run_app
from k2i_tasks.cli_options import (
    ConfigOption,
    DataDirOption,
    SetOption,
    VerboseOption,
    loaded,
    of_one_table,
    settings,
    shared_of,
    table_config,
)
from k2i_tasks.cli_schema import schema_app
from k2i_tasks.collector import postponed
from k2i_tasks.errors import EXIT_CODES, Component, ConfigError

app = typer.Typer(
    name="k2i",
    help="Kafka topics into Apache Iceberg tables, each row exactly once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cli_dead_letters.app, name="dead-letters")
app.add_typer(schema_app, name="schema")


class Form(StrEnum):
    """How the rows of a query are written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    ARROW = "arrow"
    PARQUET = "parquet"


class Values(StrEnum):
    """Which values a verification compares."""

    NONE = "none"
    SAMPLED = "sampled"
    FULL = "full"


class Chore(StrEnum):
    """What maintenance does."""

    COMPACT = "compact"
    EXPIRE = "expire-snapshots"
    ORPHANS = "clean-orphans"
    CLEANUP = "cleanup-orphans"
    ALL = "all"


#: K2I's other word.
_ALIASES = {"cleanup-orphans": "clean-orphans"}


class Shell(StrEnum):
    """Shells that completions can be made for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"
    POWER_SHELL = "power-shell"


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Entry point of `k2i`: runs one command and ends the process with its exit code.

    Args:
        words: the command line without the program's name; the process's own when None.
    """
    code = run(words)
    if "k2i_tasks.ingest" in sys.modules:
        # Threads of libraries that an ingest loaded must not hold the process up.
        sys.modules["k2i_tasks.ingest"].bounded_exit(code)
    sys.exit(code)


def run(words: Sequence[str] | None = None) -> int:
    """Runs one command; its exit code. One clear message for each error; tracebacks with -v."""
    return run_app(app, sys.argv[1:] if words is None else list(words))


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"k2i {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    config: ConfigOption = None,
    verbose: VerboseOption = 0,
    version: Annotated[
        bool,
        typer.Option("--version", metavar="", help="Show the version.", callback=_show_version),
    ] = False,
) -> None:
    """Kafka topics into Apache Iceberg tables, each row exactly once."""
    shared_of(context, config, verbose)


@app.command()
def ingest(
    context: typer.Context,
    config: ConfigOption = None,
    bootstrap_servers: Annotated[
        str | None, typer.Option(metavar="HOST:PORT,...", help="Brokers, over the file's.")
    ] = None,
    topic: Annotated[str | None, typer.Option(help="Topic, over the file's.")] = None,
    consumer_group: Annotated[
        str | None, typer.Option(help="Consumer group, over the file's.")
    ] = None,
    no_prefect: Annotated[
        bool, typer.Option("--no-prefect", metavar="", help="Do not show the run in Prefect.")
    ] = False,
    duration: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0.1, max=1e9, help="Drain after this time."),
    ] = None,
    max_messages: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Drain after exactly N records.")
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", metavar="", help="Log lines in place of the live view.")
    ] = False,
    verbose: VerboseOption = 0,
) -> int:
    """Run the ingestion until Ctrl-C, SIGTERM or a limit; what was consumed is committed."""
    shared = shared_of(context, config, verbose)
    overrides: dict[str, Any] = {
        "kafka.bootstrap_servers": bootstrap_servers,
        "kafka.topic": topic,
        "kafka.consumer_group": consumer_group,
        "prefect.enabled": False if no_prefect else None,
    }
    found = loaded(shared.config_path, overrides)
    with postponed():
        from k2i_tasks.ingest import IngestOptions, query_command, run_ingest
        from k2i_tasks.tracking_choice import choose_tracking

    tracking = choose_tracking(found, os.environ)
    table = "" if found.routing.enabled else ".".join(found.iceberg.identifier)
    how = IngestOptions(
        duration_seconds=duration,
        max_messages=max_messages,
        plain=plain,
        verbose=shared.verbose > 0,
        prefect_ui=tracking.ui_url,
        query_command=query_command(("--config", str(shared.config_path)), table),
    )
    return run_ingest(found, how, tracking.factory)


@app.command()
def validate(
    context: typer.Context,
    config: ConfigOption = None,
    connect: Annotated[
        bool,
        typer.Option("--connect", metavar="", help="Also try broker, topic, catalog and store."),
    ] = False,
    verbose: VerboseOption = 0,
) -> int:
    """Check a configuration file, and with --connect what it leads to."""
    shared = shared_of(context, config, verbose)
    from k2i_tasks.config import notes

    found = loaded(shared.config_path)
    for note in notes(found):
        print(f"note: {note}")
    print(f"{shared.config_path}: the configuration is valid.")
    if not connect:
        return 0
    import logging

    from k2i_tasks.wiring_table import check_connections

    # What a client warns of on the way comes with the check that fails.
    logging.disable(logging.NOTSET if shared.verbose else logging.WARNING)
    try:
        checks = check_connections(found)
    finally:
        logging.disable(logging.NOTSET)
    failed: list[str] = []
    for name, problem in checks:
        print(f"ok      {name}" if problem is None else f"failed  {name}: {problem}")
        failed += [] if problem is None else [name]
    return EXIT_CODES[_component(failed[0])] if failed else 0


def _component(check: str) -> Component:
    """The component that a check of `check_connections` belongs to, by its name."""
    for word, component in (
        ("schema registry", Component.REGISTRY),
        ("kafka", Component.KAFKA),
        ("catalog", Component.ICEBERG),
        ("store", Component.STORAGE),
    ):
        if word in check.lower():
            return component
    return Component.RUNTIME


@app.command()
def status(
    context: typer.Context,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Health port, http://localhost:8080 if none.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print the report as it is.")
    ] = False,
    config: ConfigOption = None,
    verbose: VerboseOption = 0,
) -> int:
    """Show the health of a running ingest; exit 6 when it does not answer or is unhealthy."""
    shared = shared_of(context, config, verbose)
    from k2i_tasks.cli_status import fetch_health, health_url, status_view

    if url is None and shared.config is not None:
        url = health_url(loaded(shared.config))
    report = fetch_health(url or "http://localhost:8080")
    if as_json:
        import json

        print(json.dumps(report, indent=2))
    else:
        from rich.console import Console

        Console().print(status_view(report))
    return EXIT_CODES[Component.HEALTH] if report.get("status") == "unhealthy" else 0


@app.command()
def query(
    context: typer.Context,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT; read-only.")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    changes: SetOption = None,
    form: Annotated[Form, typer.Option("--format", help="How rows are written.")] = Form.TABLE,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to write, in place of the terminal.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Rows at most, 0 for all; 1000 if not to a file."),
    ] = None,
    hot_only: Annotated[
        bool,
        typer.Option("--hot-only", metavar="", help="Rows in memory of the running flow alone."),
    ] = False,
    cold_only: Annotated[
        bool, typer.Option("--cold-only", metavar="", help="Committed rows alone.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", metavar="", help="Print rows as they come, until Ctrl-C.")
    ] = False,
    verbose: VerboseOption = 0,
) -> None:
    """Query a table, by its name or database.name: of the running flow, else as it is committed."""
    shared = shared_of(context, config, verbose)
    found = table_config(shared, data_dir, settings(changes or ()))
    from k2i_tasks import cli_query

    if hot_only and cold_only:
        raise ConfigError("Either --hot-only or --cold-only, not both.", field="hot-only")
    cli_query.query(
        of_one_table(found),
        sql,
        format=form.value,
        output=output,
        rows_max=limit,
        part="hot" if hot_only else "cold" if cold_only else "all",
        follow=follow,
    )


@app.command()
def verify(
    context: typer.Context,
    config: ConfigOption = None,
    changes: SetOption = None,
    values: Annotated[
        Values, typer.Option(help="Which values are compared with Kafka's.")
    ] = Values.SAMPLED,
    sample_rows: Annotated[
        int, typer.Option(metavar="N", min=1, max=10_000_000, help="Records of the sample, about.")
    ] = 10_000,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Repeat the sample of the run that printed it.")
    ] = None,
    show_values: Annotated[
        bool, typer.Option("--show-values", metavar="", help="Tell the values that differ.")
    ] = False,
    gap_seconds: Annotated[
        float,
        typer.Option(metavar="S", min=0, help="Longest look for missing records, 0 for no end."),
    ] = 300.0,
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print the report as JSON.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the report as JSON to a file, too.")
    ] = None,
    verbose: VerboseOption = 0,
) -> int:
    """Prove that the committed table equals the topic; exit 7 when it differs, 8 when open."""
    shared = shared_of(context, config, verbose)
    found = of_one_table(loaded(shared.config_path, settings(changes or ())))
    from k2i_tasks import cli_verify
    from k2i_tasks.verification.subject import VerifyOptions

    options = VerifyOptions(
        values=values.value,
        sample_rows=sample_rows,
        seed=cli_verify.fresh_seed() if seed is None else seed,
        show_values=show_values,
        gap_seconds=gap_seconds,
    )
    return cli_verify.verify(found, options, as_json=as_json, output=output)


@app.command()
def maintenance(
    context: typer.Context,
    job: Annotated[
        Chore, typer.Argument(metavar="JOB", help="What is done; all: one after the other.")
    ],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    changes: SetOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Only tell what would be done.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print the report as JSON.")
    ] = False,
    verbose: VerboseOption = 0,
) -> None:
    """Join small files, expire snapshots, remove orphan files; an ingest may run meanwhile."""
    shared = shared_of(context, config, verbose)
    found = table_config(shared, data_dir, settings(changes or ()))
    from k2i_tasks import cli_maintenance
    from k2i_tasks.types import Job

    jobs = None if job is Chore.ALL else [Job(_ALIASES.get(job.value, job.value))]
    cli_maintenance.maintenance(of_one_table(found), jobs, dry_run=dry_run, as_json=as_json)


@app.command()
def completions(shell: Annotated[Shell, typer.Argument(help="Shell to print for.")]) -> None:
    """Print the completion script of a shell: `k2i completions bash > .../k2i`."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    name = shell.value.replace("-", "")
    print(get_completion_script(prog_name="k2i", complete_var=COMPLETE_VARIABLE, shell=name))


if __name__ == "__main__":
    main()

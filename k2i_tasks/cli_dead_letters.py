"""The commands `k2i dead-letters list | show | replay`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from k2i_tasks.cli_options import (
    ConfigOption,
    DataDirOption,
    SetOption,
    Shared,
    VerboseOption,
    of_one_table,
    settings,
    shared_of,
    table_config,
)
from k2i_tasks.errors import ConfigError

if TYPE_CHECKING:
    from k2i_tasks.config import Config

app = typer.Typer(
    help="Records that could not be decoded: count them, look at one, put repaired ones in.",
    no_args_is_help=True,
)

WhereOption = Annotated[
    str,
    typer.Option(
        metavar="CONDITION",
        help="Which letters: \"code = 'json.syntax' and partition = 3\".",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON.")]


def _of_one(shared: Shared, data_dir: Path | None, changes: Sequence[str] | None) -> Config:
    """The configuration of the table that a command is about."""
    return of_one_table(table_config(shared, data_dir, settings(changes or ())))


class Form(StrEnum):
    """How counts are written."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


@app.command("list")
def list_(
    context: typer.Context,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    changes: SetOption = None,
    where: WhereOption = "",
    everything: Annotated[
        bool, typer.Option("--all", metavar="", help="Those that were replayed, too.")
    ] = False,
    form: Annotated[Form, typer.Option("--format", help="How counts are written.")] = Form.TABLE,
    limit: Annotated[
        int, typer.Option(metavar="N", min=0, max=1_000_000, help="Kinds at most, 0 for all.")
    ] = 100,
    verbose: VerboseOption = 0,
) -> None:
    """Count letters by code, stage, topic and partition, with first and last time."""
    found = _of_one(shared_of(context, config, verbose), data_dir, changes)
    from k2i_tasks import cli_letter_views

    cli_letter_views.list_letters(found, where, done=everything, form=form.value, kinds_max=limit)


@app.command()
def show(
    context: typer.Context,
    place: Annotated[
        str | None, typer.Argument(metavar="TOPIC/PARTITION/OFFSET", help="Which letter.")
    ] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    changes: SetOption = None,
    where: WhereOption = "",
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=1_000, help="Letters at most.")] = 1,
    bytes_max: Annotated[
        int,
        typer.Option(
            "--bytes",
            metavar="N",
            min=0,
            max=1 << 24,
            help="Bytes of key and value that are shown.",
        ),
    ] = 4_096,
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
) -> int:
    """Show letters in full, payloads too: one by its place, or those of a condition."""
    if (place is None) == (not where):
        raise ConfigError(
            "Either TOPIC/PARTITION/OFFSET or --where, not both and not neither.", field="letter"
        )
    found = _of_one(shared_of(context, config, verbose), data_dir, changes)
    from k2i_tasks import cli_letter_views

    return cli_letter_views.show_letters(
        found, place, where, letters_max=limit, bytes_max=bytes_max, as_json=as_json
    )


@app.command()
def replay(
    context: typer.Context,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    changes: SetOption = None,
    where: WhereOption = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Only tell what would be done.")
    ] = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = 0,
) -> int:
    """Decode open letters again, as configured now, and put them into the table, each once."""
    found = _of_one(shared_of(context, config, verbose), data_dir, changes)
    from k2i_tasks import cli_letter_views

    return cli_letter_views.replay_letters(found, where, dry_run=dry_run, as_json=as_json)

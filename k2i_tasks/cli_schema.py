"""`k2i schema`: what a running ingest waits for, and the word that has it go on."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from k2i_tasks.cli_options import (
    ConfigOption,
    Shared,
    VerboseOption,
    loaded,
    of_one_table,
    shared_of,
)
from k2i_tasks.errors import EXIT_CODES, Component, ConfigError, K2IError

schema_app = typer.Typer(
    help="What a running ingest waits for, and the word that has it go on.", no_args_is_help=True
)

#: Longest wait for the run to obey, in seconds, and the time between two looks.
OBEY_SECONDS = 30.0
LOOK_SECONDS = 0.2
#: What tells one standstill from another.
_PLACE = ("topic", "partition", "offset", "since")

UrlOption = Annotated[
    str | None, typer.Option(metavar="URL", help="Health port, over the configuration's.")
]


class As(StrEnum):
    """What may be decided for the field in conflict."""

    DEAD_LETTER = "dead-letter"
    VARIANT_COLUMN = "variant-column"


@schema_app.callback()
def options(
    context: typer.Context, config: ConfigOption = None, verbose: VerboseOption = 0
) -> None:
    """What a running ingest waits for, and the word that has it go on."""
    shared_of(context, config, verbose)


@schema_app.command()
def status(
    context: typer.Context,
    url: UrlOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print it as JSON, null for nothing.")
    ] = False,
    config: ConfigOption = None,
    verbose: VerboseOption = 0,
) -> int:
    """Tell what the running ingest stands still before; exit 6 if it does."""
    stand = _standstill(shared_of(context, config, verbose), url)
    if as_json:
        print(json.dumps(stand, indent=2))
    else:
        print(_told(stand))
    return 0 if stand is None else EXIT_CODES[Component.HEALTH]


@schema_app.command()
def resume(
    context: typer.Context,
    policy: Annotated[
        As | None,
        typer.Option("--as", help="What is done about this field's conflicts until the run ends."),
    ] = None,
    url: UrlOption = None,
    config: ConfigOption = None,
    verbose: VerboseOption = 0,
) -> int:
    """Have the running ingest go on: with --as by that policy, else as the table is now."""
    from k2i_tasks.resumption import Order, send_order

    shared = shared_of(context, config, verbose)
    folder = Path(of_one_table(loaded(shared.config_path)).transaction_log.log_dir)
    stand = _standstill(shared, url)
    if stand is None:
        print(_told(None))
        return 0
    if policy is not None and stand["cause"] != "conflict":
        raise ConfigError(
            "--as is for a conflict, and the run stands still for another reason.",
            field="as",
            remedy="Leave --as out.",
        )
    order = Order(
        stand["topic"],
        stand["partition"],
        stand["offset"],
        None if policy is None else policy.value,
    )
    send_order(folder, order)
    after = _awaited(shared, url, stand)
    if after is None:
        print("The run goes on.")
        return 0
    print(f"The run stands still again. {_told(after)}")
    return EXIT_CODES[Component.HEALTH]


def _awaited(shared: Shared, url: str | None, stand: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the run waits for once it has obeyed; None when it goes on.

    Raises:
        K2IError: it did not obey in time.
    """
    deadline = time.monotonic() + OBEY_SECONDS
    while time.monotonic() < deadline:
        found = _standstill(shared, url)
        if found is None or any(found[key] != stand[key] for key in _PLACE):
            return found
        time.sleep(LOOK_SECONDS)
    raise K2IError(
        f"The run did not go on within {OBEY_SECONDS:.0f} s.",
        component=Component.HEALTH,
        remedy="Its log says why. transaction_log.log_dir must be the folder that it uses; what "
        "came before the record is to be committed first.",
    )


def _standstill(shared: Shared, url: str | None) -> dict[str, Any] | None:
    from k2i_tasks.cli_status import fetch_health, health_url

    config = of_one_table(loaded(shared.config_path))
    report = fetch_health(url or health_url(config))
    if isinstance(report.get("tables"), list):
        # A run over several tables: it is about one of them.
        name = ".".join(config.iceberg.identifier)
        report = next((one for one in report["tables"] if one.get("table") == name), {})
    found: dict[str, Any] | None = report.get("standstill")
    return found


def _told(stand: Mapping[str, Any] | None) -> str:
    if stand is None:
        return "The run does not stand still."
    return (
        f"It stands before partition {stand['partition']}, offset {stand['offset']} of "
        f"{stand['topic']} ({stand['cause']}): {stand['reason']}"
    )

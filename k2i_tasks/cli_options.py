"""What the commands of `k2i` share: options that stand anywhere, and how an error is shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from k2i_tasks.errors import ConfigError, K2IError

if TYPE_CHECKING:
    from k2i_tasks.config import Config

DEFAULT_CONFIG = Path("config.toml")

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="Configuration file, config.toml if none."),
]
VerboseOption = Annotated[
    int,
    typer.Option(
        "--verbose",
        "-v",
        count=True,
        metavar="",
        show_default=False,
        help="Show tracebacks of errors.",
    ),
]
DataDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="Folder of a demo run, in place of a file."),
]


SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a key. May be repeated."),
]


@dataclass(slots=True)
class Shared:
    """Options given before the command; those after it are laid over them."""

    config: Path | None = None
    verbose: int = 0

    def take(self, config: Path | None, verbose: int) -> None:
        """Lays the options of a command over these."""
        self.config = config or self.config
        self.verbose = max(self.verbose, verbose)

    @property
    def config_path(self) -> Path:
        """The file to read, whether or not it was named."""
        return self.config or DEFAULT_CONFIG


def shared_of(context: typer.Context, config: Path | None = None, verbose: int = 0) -> Shared:
    """The options of this call, with those of the command laid over them."""
    shared = context.obj
    if not isinstance(shared, Shared):
        shared = context.obj = Shared()
    shared.take(config, verbose)
    return shared


def loaded(path: Path, overrides: dict[str, Any] | None = None) -> Config:
    """The configuration in `path`, under the environment and `overrides`.

    Raises:
        ConfigError: it cannot be read or is wrong; names the key.
    """
    from k2i_tasks.config import load_config

    return load_config(path, environ=os.environ, overrides=overrides or {})


def of_one_table(config: Config) -> Config:
    """`config`, if it is of one topic and its table.

    Raises:
        ConfigError: it is of many.
    """
    if config.routing.enabled:
        raise ConfigError(
            "The configuration has many topics, and this is about one of them.",
            field="routing.topic",
            remedy="Name it: --set routing.topic=NAME, or K2I_ROUTING_TOPIC=NAME.",
        )
    return config


def settings(items: Iterable[str]) -> dict[str, Any]:
    """What `--set SECTION.KEY=VALUE` options say: `section.key` to text.

    Raises:
        ConfigError: one is not of that form.
    """
    overrides: dict[str, Any] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or "." not in key:
            raise ConfigError(
                f"--set {item!r} is not SECTION.KEY=VALUE", field=key, remedy="Write both."
            )
        overrides[key] = value
    return overrides


def table_config(shared: Shared, data_dir: Path | None, overrides: dict[str, Any]) -> Config:
    """The configuration of the table to look at: a demo's folder, or the file.

    Raises:
        ConfigError: both are given, or the file is wrong.
    """
    if data_dir is None:
        return loaded(shared.config_path, overrides)
    if shared.config is not None:
        raise ConfigError("Either --config or --data-dir, not both.", field="data-dir")
    if not data_dir.is_dir():
        raise ConfigError(f"There is no folder {data_dir}.", field="data-dir")
    from k2i_tasks.config import load_demo

    return load_demo(data_dir, environ=os.environ, overrides=overrides)


def say(error: K2IError, *, verbose: bool) -> None:
    """Prints one clear message on standard error: what, where, what to do.

    Args:
        error: raised on purpose.
        verbose: the traceback too, above the message.
    """
    if verbose:
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    # `logs` holds nothing heavy, but a call that works needs none of it.
    from k2i_tasks.logs import one_line, redact

    lines = [f"k2i: {error.what}"]
    field = getattr(error, "field", "")
    if field and field not in ("sql", "config") and field not in error.what:
        lines.append(f"     Setting: {field}")
    if error.remedy:
        lines.append(f"     {error.remedy}")
    for line in lines:
        print(one_line(redact(line)), file=sys.stderr)

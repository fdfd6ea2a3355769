"""Runs a command and turns whatever comes out of it into an exit code and a message."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer

from k2i_tasks.cli_options import Shared, say
from k2i_tasks.errors import EXIT_CODES, EXIT_SIGNAL, Component, K2IError

#: How a shell asks for completions.
COMPLETE_VARIABLE = "_K2I_COMPLETE"
#: What a wrong option raises, wherever the library keeps it.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


def run_app(app: typer.Typer, words: Sequence[str]) -> int:
    """Runs one command; its exit code.

    A command line that is wrong is an error of configuration (1): 2, which many programs use, is
    Kafka's here.

    Args:
        app: the commands.
        words: the command line without the program's name.
    """
    shared = Shared()
    if COMPLETE_VARIABLE in os.environ:
        _prepare_completions()
    try:
        code = app(list(words), prog_name="k2i", standalone_mode=False, obj=shared)
    except K2IError as error:
        say(error, verbose=shared.verbose > 0)
        return error.exit_code
    except _UsageError as error:
        return _misused(error)
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_SIGNAL
    except Exception as error:
        unexpected = K2IError(
            f"Unexpected {type(error).__name__}: {error}",
            remedy="" if shared.verbose else "Run it again with -v and report what is shown.",
        )
        unexpected.__cause__ = error
        say(unexpected, verbose=shared.verbose > 0)
        return unexpected.exit_code
    return code if isinstance(code, int) else 0


def _prepare_completions() -> None:
    from typer.completion import completion_init  # type: ignore[attr-defined]

    completion_init()


def _misused(error: Exception) -> int:
    """Shows what is wrong with the command line; without any command, what there is."""
    usage: Any = error
    if type(error).__name__ == "NoArgsIsHelpError":
        usage.show()
        return EXIT_CODES[Component.CONFIG]
    where = usage.ctx.command_path if usage.ctx is not None else "k2i"
    print(f"k2i: {usage.format_message()}", file=sys.stderr)
    print(f"     Try {where} --help.", file=sys.stderr)
    return EXIT_CODES[Component.CONFIG]

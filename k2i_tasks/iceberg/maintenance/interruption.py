"""How a job that is asked to stop leaves what it reads, before anything is decided."""

from __future__ import annotations

from collections.abc import Callable


class Interrupted(Exception):
    """The job was asked to stop amid a reading. It never leaves the job's `run` and `plan`."""


def go_on(stopping: Callable[[], bool]) -> None:
    """Returns unless the job is to stop.

    Raises:
        Interrupted: it is.
    """
    if stopping():
        raise Interrupted

"""The program with places where a test holds it: it waits there, alive, until it is let go.

Only the thread that comes by waits. Such a process goes on with whatever its other threads do: a
member of a consumer group polls and sends heartbeats while its flush is held.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from pathlib import Path

from k2i_tasks import failpoints
from k2i_tasks.cli import main
from tests.running import PATIENCE_SECONDS

#: Where the process looks for places to wait at.
VARIABLE = "K2I_TEST_HELD_AT"


class Hold:
    """The test's side: where one process is to wait. A pipe by the place's name stands there.

    Args:
        folder: for the pipes; one for each process.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._there: tuple[Path, int] | None = None

    @property
    def environ(self) -> dict[str, str]:
        """For the process."""
        return {VARIABLE: str(self._folder)}

    def at(self, place: str) -> None:
        """From now on the process waits where it comes by this place."""
        assert place in failpoints.NAMES
        os.mkfifo(self._folder / place)

    def until_there(self) -> None:
        """Waits until the process waits at the place."""
        (place,) = self._folder.iterdir()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._there is None:
            try:
                self._there = place, os.open(place, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as error:
                if error.errno != errno.ENXIO:  # nobody is there to read
                    raise
                assert time.monotonic() < deadline, f"never came by {place.name}"
                time.sleep(0.01)

    def let_go(self) -> None:
        """Lets the process, which is there, go on; it passes the place freely from now on."""
        assert self._there is not None
        place, writing = self._there
        place.unlink()
        os.close(writing)
        self._there = None


def _pass_by(place: str) -> None:
    failpoints.arm(place, _pass_by)
    with suppress(FileNotFoundError):
        # Opened when the test comes, and read to its end when the test goes.
        Path(os.environ[VARIABLE], place).read_bytes()


if __name__ == "__main__":
    for name in failpoints.NAMES:
        failpoints.arm(name, _pass_by)
    main()

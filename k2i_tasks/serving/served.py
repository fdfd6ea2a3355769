"""The life of a bounded server: bound when it is made, begun, ended with all its connections."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from k2i_tasks.serving.connection import BoundedServer

#: What answers under way have to end by themselves once no more come, in seconds.
GRACE_SECONDS = 0.3


class Served:
    """Serves on a daemon thread.

    Args:
        name: for threads.
        server: bound; it belongs to this from now on.
        scheme: of the address that is told.
        host: as it is told; the address that was bound when None.
    """

    def __init__(
        self, name: str, server: BoundedServer, *, scheme: str = "http", host: str | None = None
    ) -> None:
        self._server = server
        self._thread = threading.Thread(
            target=server.serve_forever,
            kwargs={"poll_interval": 0.1},
            name=f"k2i-http-{name}",
            daemon=True,
        )
        self.port = int(server.server_address[1])
        shown = str(server.server_address[0]) if host is None else host
        #: `http://127.0.0.1:8080`, for people and programs.
        self.url = f"{scheme}://{f'[{shown}]' if ':' in shown else shown}:{self.port}"

    def start(self) -> None:
        """Begins to answer. Call once; does not block."""
        self._thread.start()

    def stop(self) -> None:
        """Stops answering, frees the port and closes what clients still hang in.

        Idempotent; blocks a fraction of a second.
        """
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        self._server.cut_off(GRACE_SECONDS)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.stop()

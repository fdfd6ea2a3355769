"""The end of several things, each whatever becomes of the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

log = logging.getLogger(__name__)


def close_all(closers: Iterable[Callable[[], None]], *, failed: bool) -> Exception | None:
    """Calls each; the first error, unless what they belong to has `failed` before. May block.

    Args:
        closers: what to call, in order.
        failed: errors only follow that, and are logged.
    """
    first: Exception | None = None
    for close in closers:
        try:
            close()
        except Exception as error:
            if failed or first is not None:
                log.warning("at the end of a failed run: %s", error)
            else:
                first = error
    return first

"""How much is tried: a little for every change, a lot by `make torture`, or a share of that."""

from __future__ import annotations

import os

VARIABLE = "K2I_TEST_SCALE"


def times(per_change: int, whole: int) -> int:
    """How often something is tried.

    Args:
        per_change: in each run of the tests.
        whole: by `make torture`; `K2I_TEST_SCALE` names a share of it, from 0 to 1.
    """
    text = os.environ.get(VARIABLE, "0")
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ValueError(f"{VARIABLE} is a share, from 0 to 1: {text!r}")
    return max(per_change, round(share * whole))

"""What the reading of a topic for several tables works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from k2i_tasks.kafka.state import TopicState
from k2i_tasks.types import Offsets, RawBatch


@dataclass(frozen=True, slots=True)
class Dealing:
    """Decides on the table of each record of one topic.

    Args:
        keys_of: a batch of n records that are ready -> index of each record's key, int64 [n], and
            for each key a value that leads to it.
        key_of: the key of one value.
        begin: where a topic is begun that no table knows anything of.
        queue_bytes: payload bytes that may wait for one table; at least one batch may.
        prepare: gets what `keys_of` needs for a batch, see `Held`; None where it needs nothing.
    """

    keys_of: Callable[[RawBatch], tuple[npt.NDArray[np.int64], dict[str, str | None]]]
    key_of: Callable[[str | None], str]
    begin: Callable[[TopicState], Offsets]
    queue_bytes: Callable[[], int]
    prepare: Callable[[RawBatch, float], int] | None = None

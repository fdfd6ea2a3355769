"""Payloads side by side in one buffer, and what decoders of one writer's schema make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2i_tasks.errors import DecodeError


@dataclass(frozen=True, slots=True)
class Payloads:
    """n payloads in one buffer.

    Args:
        data: their bytes; what lies between payloads is of no meaning.
        starts: n positions in `data`.
        ends: n positions in `data`, `starts <= ends`; a payload is `data[start:end]`.
    """

    data: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]

    @classmethod
    def joined(cls, values: Sequence[bytes], skip: int = 0) -> Payloads:
        """`values`, copied once.

        Args:
            values: n byte strings, each of `skip` bytes or more.
            skip: bytes at the front of each that are no part of the payload.
        """
        ends = np.cumsum(np.fromiter(map(len, values), np.int64, len(values)))
        starts = np.empty_like(ends)
        starts[:1] = 0
        starts[1:] = ends[:-1]
        return cls(np.frombuffer(b"".join(values), np.uint8), starts + skip, ends)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> bytes:
        return self.data[self.starts[index] : self.ends[index]].tobytes()

    def take(self, rows: npt.NDArray[np.int64]) -> Payloads:
        """Those of `rows`, in that order; their bytes are shared."""
        return Payloads(self.data, self.starts[rows], self.ends[rows])


@dataclass(frozen=True, slots=True)
class DecodedPayloads:
    """What n payloads came to.

    Args:
        columns: n - len(errors) rows in the order of the payloads.
        errors: index of a payload -> why it has no row.
    """

    columns: pa.Table
    errors: Mapping[int, DecodeError]


class PayloadDecoder(Protocol):
    """Decodes payloads that were written with one schema. Stateless; for one thread."""

    @property
    def schema(self) -> pa.Schema:
        """Columns of every table that `decode` gives: plain types, no `large_` ones, no views."""
        ...

    def decode(self, payloads: Payloads) -> DecodedPayloads:
        """One row or one error for each payload; never raises for a bad payload. Does not block."""
        ...

"""Which files are worth joining: pure bin packing that comes to rest.

First fit among a few bins that are open at a time, so that files of one time stay together. A bin
is joined if it is many files, or nearly fills a target file; and in either case only if its largest
file grows by a third, so that a byte is rewritten a few times in its life, however often small
files come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

#: Bins that are filled at the same time; each reaches back to the file that opened it.
OPEN_BINS = 8


def pack(sizes: Sequence[int], *, target_bytes: int, min_files: int) -> list[list[int]]:
    """The files to be joined, as lists of positions in `sizes`.

    Each file is in one list at most, no list is of one file or above the target in sum, and lists
    of fewer than `min_files` fill three quarters of the target.

    Args:
        sizes: bytes per file, in the order of their age.
        target_bytes: most bytes in one list.
        min_files: fewest files worth joining unless they fill a target file.
    """
    closed: list[list[int]] = []
    opened: deque[tuple[list[int], int]] = deque()
    for position, size in enumerate(sizes):
        if size > target_bytes:
            continue
        for at, (members, total) in enumerate(opened):
            if total + size <= target_bytes:
                members.append(position)
                opened[at] = (members, total + size)
                break
        else:
            opened.append(([position], size))
            if len(opened) > OPEN_BINS:
                closed.append(opened.popleft()[0])
    closed += [members for members, _ in opened]
    kept = (_worth_joining(members, sizes, target_bytes, min_files) for members in closed)
    return sorted(each for each in kept if each)


def _worth_joining(
    members: Sequence[int], sizes: Sequence[int], target_bytes: int, min_files: int
) -> list[int]:
    """Those of `members` that are worth it: all of them, or all but the largest; or none."""
    left = sorted(members, key=lambda position: sizes[position])
    total = sum(sizes[position] for position in left)
    while len(left) >= 2 and (len(left) >= min_files or 4 * total >= 3 * target_bytes):
        largest = sizes[left[-1]]
        if 3 * (total - largest) >= largest:
            return sorted(left)
        left.pop()
        total -= largest
    return []

"""Deletes many files: with a few threads in an object store, one by one on a local disk."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from k2i_tasks.errors import K2IError
from k2i_tasks.iceberg.avro import File
from k2i_tasks.iceberg.errors import translated

log = logging.getLogger(__name__)

THREADS = 8
#: So many are given to the threads before `stopping` is asked again.
_ROUND = 8 * THREADS
#: A store that has refused so many in a row refuses the others too.
_REFUSALS_MAX = 32


@dataclass(slots=True)
class Deleted:
    """What became of the files.

    Args:
        files: deleted, or gone already.
        bytes: of those, as far as it is known.
        left: could not be deleted, or were not tried any more.
    """

    files: int = 0
    bytes: int = 0
    left: int = 0


def delete_all(
    files: Iterable[File],
    delete: Callable[[str], object],
    *,
    threads: int,
    stopping: Callable[[], bool],
    after_each: Callable[[], None],
) -> Deleted:
    """Deletes each file. One that cannot be deleted is left, told in the log, and the rest go on.

    Args:
        files: nobody refers to them.
        delete: deletes one by its path; raises `FileNotFoundError` if it is not there, else any
            exception of a store.
        threads: 1 deletes in this thread.
        stopping: asked between rounds; when true the rest is left.
        after_each: called once for each file that was deleted.
    """
    done = Deleted()
    refusals = 0
    with ThreadPoolExecutor(threads, "k2i-delete") as pool:
        run = pool.map if threads > 1 else map
        for batch in _batches(files, _ROUND if threads > 1 else 1):
            if refusals >= _REFUSALS_MAX or stopping():
                done.left += len(batch)
                continue
            outcomes = run(partial(_delete_one, delete, after_each), batch)
            for file, refusal in zip(batch, outcomes, strict=True):
                if refusal is None:
                    refusals = 0
                    done.files += 1
                    done.bytes += file.bytes
                    continue
                refusals += 1
                done.left += 1
                log.warning("A file that nobody needs is left for orphan removal: %s", refusal)
    if done.left:
        log.warning("%d files that nobody needs were not deleted.", done.left)
    return done


def _delete_one(
    delete: Callable[[str], object], after: Callable[[], None], file: File
) -> K2IError | None:
    """None when it is gone; else why it is not."""
    try:
        with translated(f"deleting {file.path}"):
            delete(file.path)
    except K2IError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            return error
    after()
    return None


def _batches(files: Iterable[File], size: int) -> Iterator[list[File]]:
    source = iter(files)
    while batch := list(itertools.islice(source, size)):
        yield batch

"""The program with clocks in it: `python -m benchmarks.profiled` is `k2i` for `profile`.

CPU of the thread that does a stage, by its own clock; of the Kafka client's threads and of those
that decode a share, what the kernel says. The sums are written after each commit to the file that
`STAGES_FILE` names. The one that `THREADS_FILE` names, if it does, gets a line `id name` for each
thread of Python's: their names reach the system from Python 3.14 on only.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer

from k2i_tasks.cli import main
from k2i_tasks.codecs.framed import FramedDecoder
from k2i_tasks.codecs.json import JsonDecoder
from k2i_tasks.codecs.json_framed import FramedJsonDecoder
from k2i_tasks.codecs.json_reading import Reading
from k2i_tasks.codecs.raw import PlainDecoder
from k2i_tasks.iceberg.staging import Staging
from k2i_tasks.kafka import source
from k2i_tasks.operations import Operations

STAGES_FILE = "BENCHMARK_STAGES_FILE"
THREADS_FILE = "BENCHMARK_THREADS_FILE"
#: What the names of threads begin with that decode a share of a batch.
DECODERS = "k2i-decode"
_TICKS = os.sysconf("SC_CLK_TCK")

_sums: dict[str, float] = defaultdict(float)


def _clocked(owner: Any, method: str, stage: str) -> None:
    """Adds what `owner.method` takes to a stage; stages that lie in it are to be taken off."""
    inner: Callable[..., Any] = getattr(owner, method)

    def outer(*args: Any, **kwargs: Any) -> Any:
        began = time.thread_time()
        try:
            return inner(*args, **kwargs)
        finally:
            _sums[stage] += time.thread_time() - began

    setattr(owner, method, outer)


def _thread_seconds() -> dict[str, float]:
    """CPU so far of librdkafka's threads, and of those that decode a share."""
    found = {"client": 0, "shares": 0}
    named = {str(one.native_id) for one in threading.enumerate() if one.name.startswith(DECODERS)}
    for task in Path("/proc/self/task").iterdir():
        try:
            text = (task / "stat").read_text("utf-8", errors="replace")
        except OSError:
            continue  # it has just ended
        ticks = sum(map(int, text[text.rindex(")") + 2 :].split()[11:13]))
        if "(rdk:" in text:
            found["client"] += ticks
        elif task.name in named:
            found["shares"] += ticks
    return {name: ticks / _TICKS for name, ticks in found.items()}


def _count_slow_records() -> None:
    """Adds up the JSON documents that are read one by one."""
    inner = Reading._exact

    def outer(reading: Reading, low: int, high: int) -> None:
        _sums["slow_records"] += high - low
        inner(reading, low, high)

    setattr(Reading, "_exact", outer)  # noqa: B010 - not a method of ours


def _write_after_commit(operations: Any) -> None:
    inner: Callable[..., Any] = operations.commit

    def outer(*args: Any) -> Any:
        landed = inner(*args)
        now = _now()
        # No share is decoded before the first message.
        text = json.dumps({**_sums, **now, "decode": _sums["decode"] + now["shares"]})
        Path(os.environ[STAGES_FILE]).write_text(text, encoding="utf-8")
        return landed

    operations.commit = outer


def _note_threads(path: Path) -> None:
    """Has each thread that is started from now on noted."""
    inner = threading.Thread.start

    def outer(thread: threading.Thread) -> None:
        inner(thread)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{thread.native_id} {thread.name}\n")

    setattr(threading.Thread, "start", outer)  # noqa: B010 - not a method of ours


class _Consumer(Consumer):
    """The client's consumer, with a clock; start-up ends with the call that gives a message."""

    def consume(self, *args: Any, **kwargs: Any) -> Any:
        before = {} if "wall_before" in _sums else _now()
        began = time.thread_time()
        messages = super().consume(*args, **kwargs)
        _sums["consume"] += time.thread_time() - began
        if messages:
            _sums.update({f"{name}_before": value for name, value in before.items()})
        return messages


def _now() -> dict[str, float]:
    """CPU seconds of the process and of some of its threads, and the time."""
    return {"process": time.process_time(), **_thread_seconds(), "wall": time.monotonic()}


if __name__ == "__main__":
    if THREADS_FILE in os.environ:
        _note_threads(Path(os.environ[THREADS_FILE]))
    setattr(source, "Consumer", _Consumer)  # noqa: B010 - a name of that module's own
    _clocked(source.KafkaSource, "poll", "poll")
    for decoder in (JsonDecoder, PlainDecoder, FramedDecoder, FramedJsonDecoder):
        _clocked(decoder, "decode", "decode")
    _count_slow_records()
    for method in ("stage", "encode"):
        _clocked(Staging, method, "write")
    _clocked(Operations, "commit", "commit")
    _write_after_commit(Operations)
    main()

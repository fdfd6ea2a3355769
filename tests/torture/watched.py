"""`python -m tests.torture.watched --config k2i.toml --out views.jsonl`: a run under observation.

Ingests as the program does, and takes views of the table from a thread of its own all the while,
one after the other. Each is counted and summed against what a dense topic has below the view's
positions. The first that differs, or goes back, is written down and ends the process with 1.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

from k2i_tasks.calls import InlineTracker
from k2i_tasks.config import load_config
from k2i_tasks.errors import K2IError, TransientError
from k2i_tasks.hot_tables import HotTables
from k2i_tasks.metrics import Metrics
from k2i_tasks.types import TopicPartition
from k2i_tasks.views import Cut, View
from k2i_tasks.wiring import build_runner


class WrongViewError(Exception):
    """A view lacks rows, has some twice, or is older than one before it."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture.watched", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    config = load_config(chosen.config, environ=dict(os.environ), overrides={})
    hot = HotTables()
    runner = build_runner(
        config, tracker_factory=lambda *_: InlineTracker(), metrics=Metrics(), hot=hot
    )
    signal.signal(signal.SIGTERM, lambda *_: runner.request_drain("SIGTERM"))
    stop = threading.Event()
    [view] = hot.views().values()
    with chosen.out.open("a", encoding="utf-8") as out:
        watch = threading.Thread(target=_watch, args=(view, stop, out), daemon=True)
        watch.start()
        runner.run()
        stop.set()
        watch.join()
        # After the drain all is committed, and what is kept lies over it.
        _tell(out, _checked(view.cut(), {}))
    hot.close()
    return 0


def _watch(view: View, stop: threading.Event, out: TextIO) -> None:
    shown: dict[TopicPartition, int] = {}
    try:
        while not stop.is_set():
            began = time.monotonic()
            try:
                cut = view.cut()
            except TransientError as error:
                _tell(out, {"transient": str(error)})
                stop.wait(0.05)
                continue
            found = _checked(cut, shown)
            shown = dict(cut.positions)
            _tell(out, {**found, "seconds": round(time.monotonic() - began, 4)})
    except BaseException as error:
        known = isinstance(error, WrongViewError | K2IError)
        _tell(out, {"wrong": str(error) if known else traceback.format_exc()})
        os._exit(1)


def _checked(cut: Cut, shown: dict[TopicPartition, int]) -> dict[str, Any]:
    """The view's figures, having been compared with the closed form.

    Raises:
        WrongViewError: they differ, or positions have gone back.
    """
    import polars as pl

    offset = pl.col("_kafka_offset")
    figures = {"rows": offset.len(), "sum": offset.sum(), "squares": (offset**2).sum()}
    found = cut.frame.group_by("_kafka_partition").agg(**figures).collect()
    seen = {row[0]: row[1:] for row in found.iter_rows()}
    for tp, end in cut.positions.items():
        if end < shown.get(tp, 0):
            raise WrongViewError(f"{tp} went back from {shown[tp]} to {end}")
        rows, total, squares = seen.pop(tp.partition, (0, 0, 0))
        wanted = (end, end * (end - 1) // 2, (end - 1) * end * (2 * end - 1) // 6)
        if (rows, total, squares) != wanted:
            raise WrongViewError(
                f"{tp} below {end}: {(rows, total, squares)} instead of {wanted}; "
                f"snapshot {cut.snapshot_id}, {cut.hot_rows} hot rows"
            )
    if cut.positions and seen:
        raise WrongViewError(f"rows of other partitions: {seen}")
    return {
        "rows": sum(cut.positions.values()),
        "hot_rows": cut.hot_rows,
        "snapshot": cut.snapshot_id,
    }


def _tell(out: TextIO, figures: dict[str, Any]) -> None:
    out.write(json.dumps(figures) + "\n")
    out.flush()


if __name__ == "__main__":
    sys.exit(main())

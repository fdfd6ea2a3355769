"""A flow that only answers: rows of a table that grows, in a process of its own.

    python -m tests.asked_flow FOLDER ROWS

prints its addresses once it answers, adds so many rows for each line of its standard input, and
ends with it. The table is `demo.orders`, as in a demo's folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from k2i_tasks.config import demo_config
from k2i_tasks.wiring_query import QueryService
from tests.unit.views_world import ArrowView, orders


def main(folder: Path, rows: int) -> None:
    whole = orders(0, rows)
    view = ArrowView("demo.orders", whole.slice(0, 0), whole)
    with QueryService(demo_config(folder), lambda: {view.name: view}) as service:
        service.settled.wait()
        print(json.dumps([service.flight_url, service.http_url]), flush=True)
        for line in sys.stdin:
            view.append(int(line))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

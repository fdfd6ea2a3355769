"""`python -m tests.flows.task_run_memory CALLS PER_FLOW_RUN`: what task runs leave in memory.

A process of its own: other tests would leave their objects among those that are counted.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

from k2i_tasks.calls import Call, RetryPolicy
from k2i_tasks.companion import Companion, ShowOptions
from tests.flows.rig import status, wait_until

POLICY = RetryPolicy(0.05, 0.2, 20.0)


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def quiet_objects() -> int:
    """Objects alive once everything queued is sent and garbage is gone."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    # Not drained: each worker that follows a drained one keeps the context it was made in.
    EventsWorker.instance().wait_until_empty()
    logs = APILogWorker.instance()
    wait_until(logs._queue.empty, 120, "logs are sent")
    gc.collect()
    return len(gc.get_objects())


def growth(calls: int, per_generation: int) -> tuple[float, float, int]:
    """Per call, in the second half: bytes, objects; and flow run contexts left alive."""
    from prefect.context import FlowRunContext

    from k2i_tasks import tasks

    companion = Companion(
        ShowOptions(
            "orders",
            f"memory.t{calls}",
            generation_task_runs=per_generation,
            watch_interval_seconds=0.5,
        ),
        status,
        lambda _reason: None,
        claim_timeout_seconds=10.0,
        settings=tasks.settings_here(),
    )
    companion.start()
    tracker = companion.tracker
    wait_until(lambda: tracker.seat is not None, 30, "a flow run is attached")
    samples: list[tuple[int, int, int]] = []
    number, tracked = 1, 0
    previous: Call | None = None
    for n in range(calls):
        wait_until(lambda: tracker.seat is not None, 30, "a flow run is attached")
        if tracker.seat is not None and tracker.seat.number != number:
            number = tracker.seat.number  # always at the same fill: just after a roll-over
            samples.append((n, quiet_objects(), resident_bytes()))
        kind = "commit" if n % 2 else "flush"
        call = Call(kind, f"{kind} {n}", lambda: None, POLICY, after=previous, summary={"rows": n})
        tracker.run(call)
        previous = call if kind == "flush" else None
        tracked += call.owner == "prefect"
    gc.collect()
    contexts = sum(  # of this test: others may have left one in Prefect's own threads
        isinstance(thing, FlowRunContext)
        and thing.flow_run is not None
        and f"memory.t{calls} #" in thing.flow_run.name
        for thing in gc.get_objects()
    )
    tracker.close(15.0)
    assert tracked > 0.9 * calls, f"only {tracked} of {calls} were task runs"
    print("\n" + "\n".join(f"{n:6} calls {o:8} objects {r >> 20:5} MiB" for n, o, r in samples))
    first, last = samples[len(samples) // 2], samples[-1]
    count = last[0] - first[0]
    return (last[2] - first[2]) / count, (last[1] - first[1]) / count, contexts


def main(calls: int, per_generation: int) -> None:
    from prefect import settings
    from prefect.events.clients import NullEventsClient
    from prefect.events.worker import EventsWorker
    from prefect.testing.utilities import prefect_test_harness

    updates: dict[Any, object] = {
        settings.PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
        settings.PREFECT_SERVER_ANALYTICS_ENABLED: False,
    }
    with settings.temporary_settings(updates), prefect_test_harness(server_startup_timeout=120):
        # Task run states are made and queued, then dropped: the server is not the subject.
        EventsWorker.set_client_override(NullEventsClient)
        size, objects, contexts = growth(calls, per_generation)
    found = {"bytes_per_call": size, "objects_per_call": objects, "contexts": contexts}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
    os._exit(0)  # threads of Prefect's harness may linger

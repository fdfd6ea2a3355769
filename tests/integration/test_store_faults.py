"""A real S3 server behind a proxy that misbehaves: what passes is waited out, each row lands once.

The store is reached by the S3 client of the AWS SDK that is in PyArrow, which tries a request
three times by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.fault_world import World, meeting, world_at
from tests.running import Running, running
from tests.stack.faults import Act, FaultProxy, Rule
from tests.support import CatalogAt

pytestmark = pytest.mark.integration

QUICK = {
    "K2I_ICEBERG_REST_REQUEST_TIMEOUT_SECONDS": "30",
    "K2I_ICEBERG_CATALOG_MANAGER_REQUEST_TIMEOUT_SECONDS": "2",
    # Before a call that is never answered has failed, the client has tried it some ten times.
    "K2I_RUN_RETRY_BUDGET_SECONDS": "300",
    "K2I_BUFFER_FLUSH_INTERVAL_SECONDS": "0.1",
}
SLOW_DOWN = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"""
#: Above what the S3 client tries by itself.
OFTEN = 1000
AGAIN = "trying again"


@pytest.fixture
def proxy(rest_catalog_s3: CatalogAt) -> Iterator[FaultProxy]:
    with FaultProxy(rest_catalog_s3.store["s3.endpoint"]) as between:
        yield between


@pytest.fixture
def world(
    kafka_bootstrap: str, rest_catalog_s3: CatalogAt, proxy: FaultProxy, tmp_path: Path
) -> Iterator[World]:
    real = rest_catalog_s3
    store = {**real.store, "s3.endpoint": proxy.url}
    # The catalog tells its clients where the store is.
    with FaultProxy(real.uri, {real.store["s3.endpoint"]: proxy.url}) as catalog:
        between = replace(real, uri=catalog.url, store=store)
        yield world_at(tmp_path, kafka_bootstrap, real, between, dict(QUICK))


@dataclass(frozen=True)
class Kind:
    """A kind of request to the store: what it is for, method and path."""

    what: str
    method: str
    path: str

    def rule(self, act: Act, how: str, *, times: int = 1, **answer: Any) -> Rule:
        name = f"{self.what}: {how}, {'again and again' if times > 1 else 'once'}"
        return Rule(name, act, self.method, self.path, times=times, **answer)


DATA = r"/data/[^?]*\.parquet"
METADATA = r"/metadata/[^?]*\.avro"
LOOK = Kind("looking for a file of that name", "HEAD", DATA)
LIST = Kind("listing a folder of that name", "GET", r"list-type=2.*\.parquet")
BEGIN = Kind("beginning an upload", "POST", DATA + r"\?uploads$")
PART = Kind("uploading a part", "PUT", DATA + r"\?partNumber=")
END = Kind("ending an upload", "POST", DATA + r"\?uploadId=")
MANIFEST = Kind("writing a manifest", "PUT", METADATA + r"\?partNumber=")
READ = Kind("reading the manifest list", "GET", METADATA)


def faults_of_a_moment() -> list[Rule]:
    """Which the S3 client outlasts by itself: it tries three times."""
    return [
        PART.rule(Act.REFUSE, "503 SlowDown", body=SLOW_DOWN),
        PART.rule(Act.CUT_REQUEST, "cut in the middle"),
        PART.rule(Act.CUT, "cut, done"),
        PART.rule(Act.LOSE, "500, done", status=500),
        PART.rule(Act.THROTTLE, "at 8 kB/s", bytes_per_second=8_000),
        END.rule(Act.LOSE, "500, done", status=500),
        END.rule(Act.CUT, "cut, done"),
        LOOK.rule(Act.REFUSE, "500", status=500),
        LIST.rule(Act.CUT_ANSWER, "cut in the answer"),
        READ.rule(Act.CUT_ANSWER, "cut in the answer"),
    ]


def faults_that_stay() -> list[Rule]:
    """Which reach the program: it has to try the flush or the commit again."""
    return [
        PART.rule(Act.REFUSE, "503 SlowDown", times=OFTEN, body=SLOW_DOWN),
        END.rule(Act.LOSE, "500, done", times=OFTEN, status=500),
        MANIFEST.rule(Act.LOSE, "500, done", times=OFTEN, status=500),
        READ.rule(Act.GARBAGE, "a page of a gateway's", times=OFTEN),
    ]


def more_faults_that_stay() -> list[Rule]:
    """The rest of the kind."""
    return [
        BEGIN.rule(Act.REFUSE, "503 SlowDown", times=OFTEN, body=SLOW_DOWN),
        BEGIN.rule(Act.GARBAGE, "a page of a gateway's, done", times=OFTEN),
        PART.rule(Act.HANG, "never answered", times=OFTEN),
        PART.rule(Act.MUTE, "never answered, done", times=OFTEN),
        END.rule(Act.MUTE, "never answered, done", times=OFTEN),
        END.rule(Act.GARBAGE, "a page of a gateway's, done", times=OFTEN),
        LOOK.rule(Act.REFUSE, "503", times=OFTEN),
        LOOK.rule(Act.HANG, "never answered", times=OFTEN),
        LOOK.rule(Act.GARBAGE, "a page of a gateway's", times=OFTEN),
        LIST.rule(Act.REFUSE, "500", times=OFTEN, status=500),
        LIST.rule(Act.CUT_ANSWER, "cut in the answer", times=OFTEN),
        READ.rule(Act.HANG, "never answered", times=OFTEN),
        READ.rule(Act.CUT_ANSWER, "cut in the answer", times=OFTEN),
        PART.rule(Act.CUT_REQUEST, "cut in the middle", times=OFTEN),
        READ.rule(Act.REFUSE, "503", times=OFTEN),
        END.rule(Act.CUT, "cut, done", times=OFTEN),
        READ.rule(Act.CUT, "cut", times=OFTEN),
    ]


def test_faults_of_a_moment_are_outlasted_and_each_row_lands_once(
    world: World, proxy: FaultProxy
) -> None:
    with running(world.program) as run:
        run.until_committed(world.more())
        for rule in faults_of_a_moment():
            with meeting(rule.name):
                proxy.set(rule)
                run.until_committed(world.more())
                proxy.until_done(rule.name)
                world.assert_counts()
        run.drain()
    world.assert_complete()


def until_tried_again(run: Running, times: int) -> None:
    """Waits until flushes and commits have failed so often, and are tried again."""
    run.until(lambda _: run.output.count(AGAIN) >= times, f"tried again {times} times")


@pytest.mark.parametrize(
    "faults", [faults_that_stay, pytest.param(more_faults_that_stay, marks=pytest.mark.slow)]
)
def test_faults_that_stay_are_waited_out_and_each_row_lands_once(
    world: World, proxy: FaultProxy, faults: Callable[[], list[Rule]]
) -> None:
    with running(world.program) as run:
        run.until_committed(world.more())
        for number, rule in enumerate(faults(), 1):
            with meeting(rule.name):
                proxy.set(rule)
                world.more()
                until_tried_again(run, number)
                proxy.until_done(rule.name)
                proxy.clear()
                run.until_committed(len(world.written))
                world.assert_counts()
                assert run.output.count(AGAIN) == number, run.output
        run.drain()
    world.assert_complete()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [END, MANIFEST])
def test_a_kill_amid_an_upload_leaves_each_row_to_land_once(
    world: World, proxy: FaultProxy, kind: Kind
) -> None:
    with running(world.program) as run:
        run.until_committed(world.more())
        rule = kind.rule(Act.MUTE, "never answered, done")
        proxy.set(rule)
        world.more()
        proxy.until_done(rule.name)
        run.kill()
    with running(world.program) as run:
        world.until_landed(run)
        run.drain()
    world.assert_complete()

"""What all tests share: real services on demand, and no silent skips under CI.

The services start on first use, once per session, and are stopped by pid at its end. Set
`STACK_HOME` to use (and keep) services that `python -m tests.stack up ...` has started.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.program import Program
from tests.stack.__main__ import default_cache
from tests.stack.programs import MissingToolError, StackError, free_port
from tests.stack.service import Settings
from tests.stack.services import build
from tests.support import CatalogAt

Program.forks = True

UNDER_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")


class Stack:
    """The session's services by name; each starts when it is first asked for.

    Args:
        home: folder of their data, logs and pids.
    """

    def __init__(self, home: Path) -> None:
        self.settings = Settings(home, default_cache())
        self.services = build(self.settings)
        self._ours: list[str] = []

    def up(self, name: str) -> dict[str, str]:
        """Starts `name` and what it needs; returns the client's settings. May block. Idempotent.

        A machine without JDK or Maven skips the test.
        """
        try:
            for each in (*self.services[name].needs, name):
                self._start(each)
        except MissingToolError as error:
            pytest.skip(f"{name} cannot run here: {error}")
        except StackError as error:
            pytest.fail(f"{name} did not start: {error}", pytrace=False)
        return self.services[name].client()

    def _start(self, name: str) -> None:
        service = self.services[name]
        if service.pid() is None:
            for role in service.ports:
                key = f"{name}.{role}" if role else name
                self.settings.ports.setdefault(key, free_port())
            self._ours.append(name)
        service.up()

    def kill(self, name: str) -> None:
        """Ends a service as a crash would."""
        self.services[name].kill()

    def restart(self, name: str) -> None:
        """Stops a service if it runs, and starts it on the same ports, its data kept."""
        self.services[name].restart()

    def pause(self, name: str) -> None:
        """Freezes a service: connections stay open and nothing answers."""
        self.services[name].pause()

    def resume(self, name: str) -> None:
        """Lets a paused service go on."""
        self.services[name].resume()

    def down(self) -> None:
        """Stops what this session has started, the newest first."""
        for name in reversed(self._ours):
            self.services[name].down()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Real services, none of them started yet: `stack.up("kafka")`."""
    home = os.environ.get("STACK_HOME")
    # Tests that run at the same time stop and fill services of their own.
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    folder = Path(home, worker).resolve() if home else tmp_path_factory.mktemp("stack")
    services = Stack(folder)
    try:
        yield services
    finally:
        services.down()


@pytest.fixture(scope="session")
def kafka(stack: Stack) -> dict[str, str]:
    """Settings of the running broker: KAFKA_BOOTSTRAP, KAFKA_BOOTSTRAP_SASL_SSL, KAFKA_CA, ..."""
    return stack.up("kafka")


@pytest.fixture(scope="session")
def kafka_bootstrap(kafka: dict[str, str]) -> str:
    """`host:port` of the running broker's plain listener."""
    return kafka["KAFKA_BOOTSTRAP"]


@pytest.fixture(scope="session")
def schema_registry(stack: Stack) -> str:
    """Address of a running schema registry."""
    return stack.up("apicurio")["SCHEMA_REGISTRY_URL"]


@pytest.fixture(scope="session")
def rest_catalog(stack: Stack) -> CatalogAt:
    """A running REST catalog with its warehouse in a local folder."""
    client = stack.up("iceberg-rest")
    return CatalogAt(client["ICEBERG_REST_URI"], client["ICEBERG_REST_WAREHOUSE"])


@pytest.fixture(scope="session")
def rest_catalog_s3(stack: Stack) -> CatalogAt:
    """A running REST catalog with its warehouse on S3, which hands out the keys."""
    client = stack.up("iceberg-rest-s3")
    store = stack.up("s3proxy")
    return CatalogAt(
        client["ICEBERG_REST_S3_URI"],
        client["ICEBERG_REST_S3_WAREHOUSE"],
        {
            "s3.endpoint": store["S3_ENDPOINT"],
            "s3.region": store["S3_REGION"],
            "s3.access-key-id": store["S3_ACCESS_KEY"],
            "s3.secret-access-key": store["S3_SECRET_KEY"],
        },
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under CI a test that is skipped has failed: what it would have shown was not shown."""
    report = yield
    if UNDER_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that skips itself while it is imported."""
    report = yield
    if UNDER_CI and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"
    return report

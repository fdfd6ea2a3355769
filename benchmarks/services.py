"""What a benchmark runs against: a real broker and a real catalog, started for it alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tests.stack.__main__ import default_cache
from tests.stack.programs import free_port
from tests.stack.service import Settings
from tests.stack.services import Kafka, build
from tests.support import CatalogAt

NAMES = ("kafka", "iceberg-rest")


@dataclass(frozen=True, slots=True)
class Services:
    """A broker and a catalog.

    Args:
        kafka: the broker; runs if it was asked for.
        catalog: the REST catalog, its warehouse in a local folder.
        pids: of what runs.
    """

    kafka: Kafka
    catalog: CatalogAt
    pids: tuple[int, ...]

    @property
    def bootstrap(self) -> str:
        """The broker's address."""
        return self.kafka.client()["KAFKA_BOOTSTRAP"]


@contextmanager
def services(home: Path, names: Sequence[str] = NAMES) -> Iterator[Services]:
    """Those of `NAMES` that are asked for, running while inside, with data below `home`."""
    running = build(Settings(home / "stack", default_cache()))
    try:
        for name in names:
            for role in running[name].ports:
                key = f"{name}.{role}" if role else name
                running[name].settings.ports.setdefault(key, free_port())
            running[name].up()
        client = running["iceberg-rest"].client()
        catalog = CatalogAt(client["ICEBERG_REST_URI"], client["ICEBERG_REST_WAREHOUSE"])
        pids = tuple(pid for name in names if (pid := running[name].pid()) is not None)
        yield Services(cast(Kafka, running["kafka"]), catalog, pids)
    finally:
        for name in names:
            running[name].down()

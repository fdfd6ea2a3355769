"""The flow publishes what it found, and its run fails when the table differs from the topic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.kafka_world import World

pytestmark = [pytest.mark.integration, pytest.mark.prefect_server]


def artifacts(world: World) -> list[Any]:
    """Descriptions of the artifacts of the world's table, oldest first, with their text."""
    from prefect.client.orchestration import get_client

    key = f"k2i-verify-tests-{world.program.table.replace('_', '-')}"
    with get_client(sync_client=True) as client:
        answer = client._client.post(
            "/artifacts/filter", json={"artifacts": {"key": {"any_": [key]}}, "sort": "ID_DESC"}
        )
        found = answer.json()
    return sorted(found, key=lambda each: str(each["created"]))


@pytest.mark.usefixtures("prefect_api_url")
def test_a_proven_table_completes_and_one_that_differs_fails_and_both_tell(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    from flows.verify import verify

    world = World(tmp_path, kafka_bootstrap)
    world.more(60)
    code, output = world.program.run("--max-messages", "60")
    assert code == 0, output
    state = verify(str(world.program.config), return_state=True)
    assert state.is_completed(), state
    table = world.program.load_table()
    assert table is not None
    table.delete("_kafka_partition = 1 and _kafka_offset = 3")
    state = verify(str(world.program.config), return_state=True)
    assert state.is_failed()
    assert "1 lost" in str(state.message)
    proven, differs = artifacts(world)
    assert proven["description"].startswith(f"proven: {world.topic}")
    assert "| lost | 1 | 3 |  |" in differs["data"]

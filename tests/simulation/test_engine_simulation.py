"""Whatever crashes, freezes, conflicts or answers late: every offset is in the table once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scale import times
from tests.simulation.world import LIMITS, Disk, Process, World, lands_exactly_once

SEEDS = times(10_000, 100_000)
#: Seeds that are always run: those that tell when the check of owner and epoch is taken out, and
#: every one that failed since.
KEPT = Path(__file__).with_name("seeds.txt")
CHUNKS = 20
STEPS_MAX = 6000


def check(world: World, process: Process) -> None:
    assert all(count == 1 for count in world.table.rows.values()), "a row is there twice"
    history = world.table.history
    if len(history) > 1:
        before, after = history[-2:]
        assert all(after[tp] >= offset for tp, offset in before.items()), "offsets went back"
    assert process.engine is not None
    assert process.engine.used_bytes <= LIMITS.buffer_bytes_max, "more than the buffer's bound"
    covered = {tp.partition: end for tp, end in world.table.state.offsets.items()}
    for partition, offset in world.table.rows:
        assert offset < covered[partition], "a row beyond the recorded offsets"


def run(seed: int) -> tuple[World, int]:
    """Lives through one schedule; the world at its end and how many processes it took."""
    world = World(seed, records=60)
    random = world.random
    disk = Disk()
    process = Process(world, disk, 1)
    process.start()
    zombies: list[Process] = []
    runs = 1
    for step in range(STEPS_MAX):
        choice = random.random()
        if (choice < 0.02 and runs < 12) or process.finished:
            # Killed, frozen, or ended as fenced; the next one may have lost the log folder.
            if not process.finished and random.random() < 0.5:
                zombies.append(process)
                disk = Disk(disk.journal)
            if random.random() < 0.2:
                disk = Disk()
            if process.finished and process.over is None:
                break
            runs += 1
            process = Process(world, disk, runs)
            process.start()
        elif choice < 0.05:
            world.deliver_late()
        elif choice < 0.07:
            world.foreign_commit()
        elif choice < 0.12 and zombies:
            wake(random.choice(zombies))
        elif choice < 0.45:
            process.poll()
        elif choice < 0.6:
            process.tick()
        else:
            process.work()
        exhausted = process.engine is not None and process.engine.ledger.buffered == world.ends
        if exhausted and step > 50:
            process.drain()
        check(world, process)
    return world, runs


def wake(zombie: Process) -> None:
    if not zombie.finished:
        zombie.work()
        zombie.tick()


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_schedule_lands_every_offset_exactly_once(chunk: int) -> None:
    for seed in range(chunk, SEEDS, CHUNKS):
        lands_exactly_once(run, seed, KEPT)


def test_kept_seeds_hold() -> None:
    for seed in KEPT.read_text(encoding="ascii").split():
        lands_exactly_once(run, int(seed), KEPT)

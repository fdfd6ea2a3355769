"""What may happen to a run, drawn from a seed; each kind knows what it expects of the process."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from k2i_tasks.failpoints import NAMES
from k2i_tasks.types import Job
from tests.torture.broker import BrokerProcess
from tests.torture.forked import Fault
from tests.torture.world import World, WrongError

#: Those that a run or its upkeep comes by; replays, and columns in a commit of their own, which
#: follows a race that was lost, have tests of their own.
ELSEWHERE = ("replay.", "letters.", "schema.evolve")
PLACES = tuple(name for name in NAMES if not name.startswith(ELSEWHERE))
#: A table of more commits is slow to commit to: a new one then.
CYCLES_PER_WORLD = 60
EVENTS_MAX = 240
#: Where a frozen process is still able to do harm when it wakes, if nothing stops it.
FREEZING = (
    "flush.staged",
    "commit.before",
    "commit.manifests.before",
    "commit.intent.before",
    "commit.send.before",
    "commit.answered",
    "commit.landed",
)
#: Places of the table's upkeep, which is a process of its own.
UPKEEP = {"compact": Job.COMPACT, "expire": Job.EXPIRE, "orphans": Job.ORPHANS}
#: Of so many cycles, in an order that is drawn.
KINDS = {
    "kill at a place": 62,
    "kill at a time": 6,
    "log lost": 12,
    "log torn": 2,
    "log corrupt": 2,
    "frozen": 14,
    "unknown commits": 13,
    "disk full": 3,
    "maintenance": 6,
}
#: Runs that are to come by a place; whether they do hangs on the clock, too.
TRIES = 3
#: Reached only while there is no table yet.
AT_FIRST = ("table.create", "table.created", "dead_letters.create")
#: Reached once in a run, if at all.
ONCE = (*AT_FIRST, *UPKEEP, "wal.open", "wal.close", "claim", "recovery", "schema")


@dataclass
class Tally:
    """What was done, by kind of cycle, and how often each place was hit."""

    kinds: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    #: What catalogs answered falsely.
    lies: Counter[str] = field(default_factory=Counter)
    events: int = 0
    worlds: int = 0

    @property
    def cycles(self) -> int:
        return self.kinds.total()


class Torture:
    """Cycles of one seed.

    Args:
        seed: decides all that is drawn; what the scheduler does is not in it.
        folder: for the worlds; one that held is removed, one that did not stays.
        broker: a running broker.
    """

    def __init__(self, seed: int, folder: Path, broker: BrokerProcess) -> None:
        self.tally = Tally()
        self._draw = random.Random(seed)
        self._folder = folder
        self._broker = broker
        self._world: World | None = None
        self._in_world = 0
        self._places = self._rounds(PLACES)
        self._kinds = self._rounds([kind for kind, often in KINDS.items() for _ in range(often)])
        self._do: dict[str, Callable[[World], None]] = {
            "kill at a place": self._kill_at_a_place,
            "kill at a time": self._kill_at_a_time,
            "log lost": self._log_lost,
            "log torn": self._log_torn,
            "log corrupt": self._log_corrupt,
            "frozen": self._frozen,
            "unknown commits": self._unknown_commits,
            "disk full": self._disk_full,
            "maintenance": self._maintenance,
        }

    def cycle(self) -> None:
        """One cycle: events, a fault, the comparison.

        Raises:
            WrongError: the table is not what the topic says, or a process ended unexpectedly.
        """
        kind = next(self._kinds)
        try:
            self._do[kind](self._world_with_events())
            if self._world is not None:
                self._world.check()
        except WrongError as error:
            raise WrongError(f"cycle {self.tally.cycles} ({kind}): {error}") from error
        self.tally.kinds[kind] += 1
        self._in_world += 1
        if self._in_world >= CYCLES_PER_WORLD:
            self.finish()

    def finish(self) -> None:
        """Lets a sound run complete the table, and compares all of it."""
        world, self._world = self._world, None
        if world is None:
            return
        self._expect(world, world.run(), 0, "the last run")
        world.check(final=True)
        shutil.rmtree(world.folder)

    def _world_with_events(self) -> World:
        world = self._world or self._new_world()
        self._produce(world, self._draw.randint(20, EVENTS_MAX))
        return world

    def _produce(self, world: World, count: int) -> None:
        world.produce(count)
        self.tally.events += count

    def _new_world(self) -> World:
        self.tally.worlds += 1
        self._in_world = 0
        folder = Path(tempfile.mkdtemp(prefix=f"world-{self.tally.worlds}-", dir=self._folder))
        self._world = World(folder, self._broker, self.tally.worlds)
        return self._world

    def _rounds(self, words: Sequence[str]) -> Iterator[str]:
        """Each of them in turn, each round in another order."""
        while True:
            yield from self._draw.sample(words, len(words))

    def _expect(self, world: World, code: int, wanted: int, what: str) -> None:
        if code != wanted:
            raise WrongError(f"{what} ended with {code}, not {wanted}\n{world.log()}")

    # Kinds.

    def _kill_at_a_place(self, world: World) -> None:
        place = next(self._places)
        for _ in range(TRIES):
            world = self._ready_for(place, world)
            first = self.tally.kinds["kill at a place"] < len(PLACES)
            often = 1 if first or place.startswith(ONCE) else 2
            fault = Fault(place, self._draw.randint(1, often))
            job = UPKEEP.get(place.partition(".")[0])
            code = world.run(fault) if job is None else world.upkeep(job, fault=fault)
            if code not in (0, -signal.SIGKILL):
                raise WrongError(f"killed at {place}: ended with {code}\n{world.log()}")
            self._count(place, code)
            if code:
                return
            self._produce(world, self._draw.randint(20, EVENTS_MAX))

    def _ready_for(self, place: str, world: World) -> World:
        """A world whose next run comes by this place, as far as that can be arranged."""
        if place.startswith(AT_FIRST):
            self.finish()
            return self._world_with_events()
        if place.startswith("schema"):
            self.tally.events += world.produce_a_new_column()
        elif place == "wal.open.cut":
            self._damage(world, torn=True)
        elif place == "wal.open.quarantined":
            self._damage(world, torn=False)
        elif place in ("wal.open.tmp", "wal.open.synced", "wal.open.renamed"):
            world.lose_wal()
        elif place == "wal.open.unlinked":  # an older segment has to be left
            self._count("wal.checkpoint.switched", world.run(Fault("wal.checkpoint.switched")))
        elif place.startswith(tuple(UPKEEP)):
            self._expect(world, world.run(), 0, "a run before upkeep")
            if place.startswith("orphans"):  # there has to be one
                self._count("compact.staged", self._killed_upkeep(world, "compact.staged"))
        elif place == "recovery.step":
            self._count("flush.staged", world.run(Fault("flush.staged")))
        return world

    def _killed_upkeep(self, world: World, place: str) -> int:
        return world.upkeep(UPKEEP[place.partition(".")[0]], fault=Fault(place))

    def _count(self, place: str, code: int) -> None:
        if code == -signal.SIGKILL:
            self.tally.places[place] += 1
        else:
            self.tally.outcomes[f"{place} not reached"] += 1

    def _kill_at_a_time(self, world: World) -> None:
        code = world.run(Fault(kill_after=self._draw.uniform(0.02, 0.9)))
        if code not in (0, -signal.SIGKILL):
            raise WrongError(f"killed at some time: ended with {code}\n{world.log()}")

    def _log_lost(self, world: World) -> None:
        world.run(Fault(self._draw.choice(FREEZING)))
        world.lose_wal()

    def _log_torn(self, world: World) -> None:
        world.run(Fault(self._draw.choice(FREEZING)))
        self._damage(world, torn=True)
        self._expect(world, world.run(), 0, "a run with a torn log")

    def _log_corrupt(self, world: World) -> None:
        world.run(Fault(self._draw.choice(FREEZING)))
        self._damage(world, torn=False)
        self._expect(world, world.run(), 0, "a run with a corrupt log")

    def _damage(self, world: World, *, torn: bool) -> None:
        done = world.damage_wal(self._draw, torn=torn)
        what = "cut" if torn else "flipped a bit of"
        self.tally.outcomes[f"{what} the log" if done else "no log to damage"] += 1

    def _frozen(self, world: World) -> None:
        """One process freezes, another takes over, the first wakes up."""
        frozen = world.start(Fault(self._draw.choice(FREEZING), stop=True))
        if world.wait(frozen, stopped=True) != -signal.SIGSTOP:
            self.tally.outcomes["not frozen"] += 1
            return
        try:
            self._overtake(world, frozen)
        except BaseException:
            os.kill(frozen, signal.SIGKILL)
            raise

    def _overtake(self, world: World, frozen: int) -> None:
        copied = self._draw.random() < 0.5
        other = world.folder / f"wal-{self.tally.cycles}"
        if copied:
            shutil.copytree(world.wal, other)
        self._expect(world, world.run(wal=other), 0, "the run that takes over")
        self._produce(world, 20)  # so that the first has something to do when it wakes
        world.check()
        os.kill(frozen, signal.SIGCONT)
        code = world.wait(frozen)
        # With everything committed before it froze, it drains without another word.
        if code not in (0, 3):
            raise WrongError(f"the frozen run ended with {code}, not as fenced\n{world.log()}")
        self.tally.outcomes["fenced" if code == 3 else "frozen after its last commit"] += 1
        world.wal = other

    def _unknown_commits(self, world: World) -> None:
        self._produce(world, 2 * EVENTS_MAX)
        code = world.run(Fault(commits=self._draw.getrandbits(32)))
        self._expect(world, code, 0, "a run with a lying catalog")
        self.tally.lies.update(world.lies())

    def _maintenance(self, world: World) -> None:
        """Compaction and expiry beside a run, with a lying catalog; then the orphans."""
        lying = Fault(commits=self._draw.getrandbits(32))
        beside = world.start_upkeep((Job.COMPACT, Job.EXPIRE, Job.COMPACT), lying)
        code = world.run()
        self._expect(world, world.wait(beside), 0, "upkeep beside a run")
        self._expect(world, code, 0, "a run beside upkeep")
        self.tally.lies.update(world.lies())
        self._expect(world, world.upkeep(*Job), 0, "upkeep")

    def _disk_full(self, world: World) -> None:
        limit = int(2 ** self._draw.uniform(8, 17))
        code = world.run(Fault(file_bytes_max=limit))
        if code not in (0, 3, 4, 5):
            raise WrongError(f"a full disk (files of {limit} bytes) ended the run with {code}")
        self.tally.outcomes[f"disk full: exit code {code}"] += 1

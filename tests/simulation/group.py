"""A consumer group in the seeded world: members that join, are dropped, sleep, wake and steal.

Kafka gives the partitions of a member that it takes for dead to others, and the member may not know
for as long as it does not poll: until then it goes on working, and may even claim what it was given
long ago. That the table keeps such members apart is what is under test.
"""

from __future__ import annotations

import random

from k2i_tasks.errors import PartitionsLostError
from k2i_tasks.types import TopicPartition
from tests.simulation.world import PARTITIONS, Disk, Process, World

#: Steps after which a member that lost partitions, and hears nothing of the group, is restarted.
PATIENCE_STEPS = 60


class Member:
    """One process in the group, with a log folder of its own."""

    def __init__(self, world: World, disk: Disk, number: int) -> None:
        self.process = Process(world, disk, number, group="g")
        #: What the group gave it last, not yet claimed.
        self.given: frozenset[TopicPartition] | None = None
        self.dropped = False
        self.waited = 0

    def step(self, random: random.Random) -> None:
        """Whatever a member may do without hearing of the group."""
        process = self.process
        if self.given is not None and random.random() < 0.3:
            process.let_go()
            process.start(self.given)
            self.given = None
        if process.engine is None:
            return
        if process.finished:
            assert isinstance(process.over, PartitionsLostError), process.over
            self.waited += 1
            return
        choice = random.random()
        if choice < 0.4:
            process.poll()
        elif choice < 0.55:
            process.tick()
        else:
            process.work()


class Group:
    """The coordinator's view: who is a member, and what each was given."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world.random
        self.members: list[Member] = []
        self.asleep: list[Member] = []
        self.runs = 0

    def join(self, disk: Disk | None = None) -> None:
        self.runs += 1
        self.members.append(Member(self.world, disk or Disk(), self.runs))
        self.rebalance()

    def rebalance(self) -> None:
        """Deals the partitions out anew; each member hears of it, as Kafka waits for them all."""
        partitions = list(PARTITIONS)
        self.random.shuffle(partitions)
        for number, member in enumerate(self.members):
            member.given = frozenset(partitions[number :: len(self.members)])
            member.waited = 0

    def drop(self, *, dead: bool) -> None:
        """A member is silent for too long: it has died, or it only sleeps."""
        if len(self.members) < 2:
            return
        member = self.members.pop(self.random.randrange(len(self.members)))
        if dead:
            lost_folder = self.random.random() < 0.3
            self.members.append(Member(self.world, self._disk(member, lost_folder), self.number()))
        else:
            member.dropped = True
            self.asleep.append(member)
        self.rebalance()

    def number(self) -> int:
        self.runs += 1
        return self.runs

    def wake(self) -> None:
        """A sleeper does something; when it polls it learns that it was dropped, and rejoins."""
        if not self.asleep:
            return
        member = self.random.choice(self.asleep)
        member.step(self.random)
        if self.random.random() < 0.3:
            self.asleep.remove(member)
            member.process.let_go()
            member.given, member.dropped = None, False
            self.members.append(member)
            self.rebalance()

    def restart_the_impatient(self) -> None:
        for member in [m for m in self.members if m.waited > PATIENCE_STEPS]:
            self.members.remove(member)
            self.join(member.process.disk)

    def step(self) -> None:
        choice = self.random.random()
        if choice < 0.01 and len(self.members) + len(self.asleep) < 4:
            self.join()
        elif choice < 0.02:
            self.drop(dead=self.random.random() < 0.5)
        elif choice < 0.06:
            self.wake()
        elif choice < 0.1:
            self.world.deliver_late()
        elif choice < 0.12:
            self.world.foreign_commit()
        else:
            self.random.choice(self.members).step(self.random)
        self.restart_the_impatient()

    @staticmethod
    def _disk(member: Member, lost_folder: bool) -> Disk:
        return Disk() if lost_folder else member.process.disk

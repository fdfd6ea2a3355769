"""A broker in a process of its own, which outlives the runs that are killed.

Reads commands, one a line, from standard input and answers each with one line of JSON:
`topic NAME PARTITIONS`, and `produce NAME FIRST COUNT`, which writes the events of these numbers
and answers `[[number, partition, offset], ...]`. The first line is the broker's address.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from confluent_kafka import Message, Producer

from k2i_tasks.kafka.embedded import EmbeddedBroker
from tests.support import event

#: Every so many-th event cannot be decoded.
BAD_EVERY = 37
#: After so many events there is one column more.
COLUMN_EVERY = 300


def is_bad(number: int) -> bool:
    return number % BAD_EVERY == BAD_EVERY - 1


def told(number: int) -> dict[str, Any]:
    """What the event of this number says: the later it comes, the later the name of one field."""
    return {**event(number), f"column_{number // COLUMN_EVERY}": number}


def payload(number: int) -> bytes:
    """What the event of this number looks like on the wire."""
    return b"bad %d" % number if is_bad(number) else json.dumps(told(number)).encode()


class BrokerProcess:
    """The caller's side: starts the process, sends commands, ends it. A context manager."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.broker"],
            cwd=Path(__file__).resolve().parent.parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.bootstrap = str(self._answer())

    def topic(self, name: str, partitions: int) -> None:
        self._ask(f"topic {name} {partitions}")

    def produce(self, topic: str, first: int, count: int) -> list[tuple[int, int, int]]:
        """Number, partition and offset of each event written."""
        found = self._ask(f"produce {topic} {first} {count}")
        return [(number, partition, offset) for number, partition, offset in found]

    def __enter__(self) -> BrokerProcess:
        return self

    def __exit__(self, *_error: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, command: str) -> list[list[int]]:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        answer: list[list[int]] = self._answer()
        return answer

    def _answer(self) -> list[list[int]]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the broker ended with {self._process.wait()}")
        found: list[list[int]] = json.loads(line)
        return found


def _produce(producer: Producer, topic: str, first: int, count: int) -> list[list[int]]:
    written: list[list[int]] = []

    def delivered(error: object, message: Message) -> None:
        if error is not None:
            raise RuntimeError(f"not delivered: {error}")
        number = int((message.key() or b"").removeprefix(b"key-"))
        written.append([number, int(message.partition() or 0), int(message.offset() or 0)])

    for number in range(first, first + count):
        producer.produce(
            topic,
            payload(number),
            key=b"key-%d" % number,
            partition=number % 4,
            on_delivery=delivered,
        )
    if producer.flush(30) or len(written) != count:
        raise RuntimeError(f"{count - len(written)} events were not delivered")
    return written


def main() -> None:
    with EmbeddedBroker() as broker:
        producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 1})
        print(json.dumps(broker.bootstrap), flush=True)
        for line in sys.stdin:
            word, topic, *numbers = line.split()
            if word == "topic":
                broker.create_topic(topic, int(numbers[0]))
                print("[]", flush=True)
            else:
                print(json.dumps(_produce(producer, topic, *map(int, numbers))), flush=True)


if __name__ == "__main__":
    main()

"""Dead letters in a topic: whole, and each once, whatever is killed."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Message, Producer

from k2i_tasks.config import load_config
from k2i_tasks.errors import TransientError
from k2i_tasks.failpoints import VARIABLE
from k2i_tasks.kafka.letters import LetterTopic, LetterTopicSettings
from k2i_tasks.types import DeadLetter
from k2i_tasks.verification.report import Verdict, VerifyReport
from k2i_tasks.verification.subject import VerifyOptions
from k2i_tasks.wiring_table import verify_table
from tests.group_world import MEMBER
from tests.integration.test_end_to_end import expected, landed, unique
from tests.program import Program
from tests.running import PATIENCE_SECONDS, running
from tests.support import (
    Position,
    assert_exactly_once,
    create_topic,
    event,
    produce,
    read_by_metadata,
)

pytestmark = pytest.mark.integration

BOTH = '[dead_letters]\nto = "both"\n'
TOPIC = '[dead_letters]\nto = "topic"\n'
#: Where a run is killed; with `lost`, its log is lost besides, so that all is read again.
PLACES = (
    "letters.send.before:1",
    "letters.commit.before:1",
    "letters.commit.before:2",
    "letters.sent:1",
    "letters.sent:2 lost",
    "flush.staged.before:1",
    "flush.staged:1",
    "flush.staged:1 lost",
    "dead_letters.committed:1 lost",
    "commit.send.before:2 lost",
    "commit.answered:2",
    "commit.landed:1",
)


def letters_in(bootstrap: str, topic: str) -> list[Message]:
    """All that a reader of committed records sees of a topic."""
    settings = {"bootstrap.servers": bootstrap, "group.id": "eyes", "enable.auto.commit": False}
    reader = Consumer(
        {**settings, "isolation.level": "read_committed", "auto.offset.reset": "earliest",
         "enable.partition.eof": True}
    )  # fmt: skip
    found: list[Message] = []
    try:
        partitions = reader.list_topics(topic, timeout=30).topics[topic].partitions
        reader.subscribe([topic])
        ended: set[int | None] = set()
        deadline = time.monotonic() + 60
        while len(ended) < len(partitions):
            assert time.monotonic() < deadline, "the topic was not read to its end"
            message = reader.poll(1.0)
            if message is not None and message.error() is None:
                found.append(message)
            elif message is not None:
                ended.add(message.partition())
    finally:
        reader.close()
    return found


def told(message: Message) -> dict[str, str]:
    """What we say of a letter, by the header's name."""
    return {
        name.removeprefix("__k2i."): value.decode()
        for name, value in headers_of(message)
        if name.startswith("__k2i.") and isinstance(value, bytes)
    }


def headers_of(message: Message) -> list[tuple[str, str | bytes | None]]:
    found = message.headers()
    return found if isinstance(found, list) else []


def places(messages: list[Message]) -> list[tuple[Position, bytes | None]]:
    found = [(told(one), one.value()) for one in messages]
    return sorted(((int(each["partition"]), int(each["offset"])), value) for each, value in found)


def proven(program: Program) -> VerifyReport:
    config = load_config(program.config, environ={}, overrides={})
    report = verify_table(config, VerifyOptions(values="full"))
    assert report.verdict is Verdict.PROVEN, report
    return report


@pytest.mark.timeout(600)
def test_a_kill_at_any_place_sends_each_letter_once(kafka_bootstrap: str, tmp_path: Path) -> None:
    topic = unique("letters")
    create_topic(kafka_bootstrap, topic)
    program = Program(tmp_path, kafka_bootstrap, topic, extra=BOTH)
    written: dict[Position, dict[str, Any]] = {}
    bad: dict[Position, bytes] = {}
    for turn, place in enumerate(PLACES):
        name, _, lost = place.partition(" ")
        first = turn * 100
        values = [json.dumps(event(n)).encode() for n in range(first, first + 100)]
        values += [b"bad %d" % n for n in range(first, first + 8)]
        for where, value in produce(kafka_bootstrap, topic, values).items():
            assert value is not None
            if value.startswith(b"bad"):
                bad[where] = value
            else:
                written[where] = json.loads(value)
        code, output = program.run("--duration", "15", environ={VARIABLE: name})
        assert code == -signal.SIGKILL, f"{place}: exit code {code}\n{output}"
        if lost:
            shutil.rmtree(tmp_path / "wal")
    code, output = program.run("--duration", "3")
    assert code == 0, output
    assert_exactly_once(landed(program), expected(written))
    assert places(letters_in(kafka_bootstrap, f"{topic}__dead_letters")) == sorted(bad.items())
    rows = read_by_metadata(program.metadata_location(f"{program.table}__dead_letters"))
    found = sorted(((one["partition"], one["offset"]), bytes(one["value"])) for one in rows)
    assert found == sorted(bad.items())
    assert proven(program).totals["dead_letters"] == len(bad)
    program.extra = TOPIC
    assert proven(program).totals["dead_letters"] == len(bad)


def test_a_letter_has_key_value_and_headers_as_they_were_and_says_what_happened(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    topic = unique("letters")
    create_topic(kafka_bootstrap, topic, 1)
    producer = Producer({"bootstrap.servers": kafka_bootstrap})
    headers: list[tuple[str, str | bytes | None]] = [("trace", b"\x00\xff"), ("trace", None)]
    producer.produce(topic, b"{oh", b"\x01key", headers=headers, timestamp=1_700_000_000_123)
    producer.produce(topic, b'{"a": 1}')
    producer.flush(30)
    own = TOPIC + f'topic = "{topic}-refused"\ntopic_partitions = 2\n'
    program = Program(tmp_path, kafka_bootstrap, topic, extra=own)
    code, output = program.run("--max-messages", "2")
    assert code == 0, output
    (letter,) = letters_in(kafka_bootstrap, f"{topic}-refused")
    assert (letter.key(), letter.value()) == (b"\x01key", b"{oh")
    assert headers_of(letter)[:2] == [("trace", b"\x00\xff"), ("trace", None)]
    found = told(letter)
    assert found.pop("failed.at")[:2] == "20"
    assert found.pop("reason")
    assert found == {
        "table": f"tests.{program.table}",
        "topic": topic,
        "partition": "0",
        "offset": "0",
        "timestamp": "1700000000123",
        "stage": "decode",
        "code": "json.syntax",
    }
    assert program.load_table(f"{program.table}__dead_letters") is None, "they are in a topic alone"
    assert proven(program).totals["dead_letters"] == 1


@pytest.mark.timeout(300)
def test_a_member_killed_amid_a_transaction_leaves_its_letters_to_the_others(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    topic = unique("letters")
    create_topic(kafka_bootstrap, topic)
    program = Program(tmp_path, kafka_bootstrap, topic, extra=BOTH)
    values = [b'{"order_id": %d}' % n for n in range(100)]
    written = produce(kafka_bootstrap, topic, values)
    code, output = program.run("--max-messages", "100")  # there is a table
    assert code == 0, output
    members = [
        replace(program, environ={**MEMBER, "K2I_TRANSACTION_LOG_LOG_DIR": f"{tmp_path}/{n}"})
        for n in (1, 2)
    ]
    bad: dict[Position, bytes] = {}
    numbers = itertools.count()
    killing = {VARIABLE: "letters.commit.before:3"}
    with running(members[0], environ=killing) as doomed, running(members[1]) as other:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while doomed.process.poll() is None:
            assert time.monotonic() < deadline, doomed.output
            more = [b"bad %d" % next(numbers) for _ in range(40)]
            found = produce(kafka_bootstrap, topic, more)
            bad |= {place: value for place, value in found.items() if value is not None}
        ends: dict[int, int] = {}
        for partition, offset in (*written, *bad):
            ends[partition] = max(ends.get(partition, 0), offset + 1)
        other.until(
            lambda report: {p["partition"]: p["committed"] for p in report["partitions"]} == ends,
            f"committed up to {ends}",
        )
        other.drain()
    assert doomed.process.returncode == -signal.SIGKILL, doomed.output
    assert places(letters_in(kafka_bootstrap, f"{topic}__dead_letters")) == sorted(bad.items())
    assert proven(program).totals["dead_letters"] == len(bad)


class Sender:
    """What one run sends with."""

    def __init__(self, bootstrap: str, name: str) -> None:
        settings = {"bootstrap.servers": bootstrap, "group.id": "ignored"}
        self.topic = LetterTopic(settings, LetterTopicSettings(f"{name}-out", "db.t", f"g-{name}"))
        self.name = name

    def send(self, *offsets: int, partition: int = 0, topic_id: str | None = "one") -> int:
        letters = [
            DeadLetter(self.name, partition, at, -1, None, b"%d" % at, None, "decode", "c", "r")
            for at in offsets
        ]
        deadline = time.monotonic() + 60
        while True:
            try:
                return self.topic.publish(letters, topic_id)
            except TransientError as error:
                # The coordinators of a broker that has just started are not ready at once.
                if "taken over" in error.what or time.monotonic() > deadline:
                    raise


@pytest.fixture
def sender(kafka_bootstrap: str) -> Sender:
    name = unique("sender")
    create_topic(kafka_bootstrap, name, 2)
    return Sender(kafka_bootstrap, name)


def sent(bootstrap: str, sender: Sender) -> list[int]:
    """Offsets of the letters in the topic."""
    return sorted(int(one.value() or b"") for one in letters_in(bootstrap, f"{sender.name}-out"))


def test_letters_below_what_was_told_are_not_sent_again(
    kafka_bootstrap: str, sender: Sender
) -> None:
    assert sender.send(3, 5) == 2
    assert sender.send(3, 5) == 0
    other = Sender(kafka_bootstrap, sender.name)
    assert other.send(3, 5, 9) == 1
    assert other.send(1, partition=1) == 1
    sent = sorted(
        int(one.value() or 0) for one in letters_in(kafka_bootstrap, f"{sender.name}-out")
    )
    assert sent == [1, 3, 5, 9]


def test_a_run_that_was_taken_over_from_sends_nothing_and_then_knows(
    kafka_bootstrap: str, sender: Sender
) -> None:
    sender.send(1)
    other = Sender(kafka_bootstrap, sender.name)
    other.send(2)
    with pytest.raises(TransientError, match="taken over"):
        sender.send(2, 3)
    assert sender.send(2, 3) == 1
    sent = sorted(
        int(one.value() or 0) for one in letters_in(kafka_bootstrap, f"{sender.name}-out")
    )
    assert sent == [1, 2, 3]


def test_letters_of_a_topic_that_was_made_again_are_not_taken_for_the_old_ones(
    sender: Sender,
) -> None:
    sender.send(7, topic_id="one")
    again = Sender(sender.topic._common["bootstrap.servers"], sender.name)
    assert again.send(2, topic_id="two") == 1
    assert again.send(2, topic_id="two") == 0


def test_what_loses_its_claim_sends_nothing(kafka_bootstrap: str, sender: Sender) -> None:
    def lost() -> None:
        raise TransientError("not ours")

    letter = DeadLetter(sender.name, 0, 1, -1, None, b"x", None, "decode", "c", "r")
    with pytest.raises(TransientError, match="not ours"):
        sender.topic.publish([letter], None, lost)
    assert letters_in(kafka_bootstrap, f"{sender.name}-out") == []

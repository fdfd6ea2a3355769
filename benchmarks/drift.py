"""What bad records cost the good ones: JSON decoded and written, clean and with one in a thousand.

In one process, without a broker. A clean batch and a bad one take turns, so that both meet the same
machine; CPU of the process, all threads. The least of all turns counts, and the median is shown.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from k2i_tasks.codecs.conflicts import Conflicts, Policy
from k2i_tasks.codecs.rules import Rules
from k2i_tasks.iceberg.schema import create_table
from k2i_tasks.iceberg.writer import DataFileWriter
from tests.iceberg_tables import NAME, catalog_of, config_at
from tests.support import event
from tests.unit.codec_batches import batch_of, decoder_of

#: Records of one batch, and one bad one in so many.
RECORDS = 20_000
ONE_IN = 1_000
SEED = 1

#: Makes a payload of an event.
Spoil = Callable[[dict[str, object]], bytes]


def _type(text: dict[str, object]) -> bytes:
    return json.dumps({**text, "amount": "much"}).encode()


def _nested(text: dict[str, object]) -> bytes:
    return json.dumps({**text, "address": {"city": "x", "zip": [1]}}).encode()


def _document(text: dict[str, object]) -> bytes:
    return json.dumps(text).encode()


def _middle(text: dict[str, object]) -> bytes:
    whole = _document(text)
    return (
        whole[: random.Random(len(whole) + hash(text["amount"])).randrange(20, len(whole))] + b"}"
    )


#: Ways in which a document is no JSON, of which one is told by its end alone.
BROKEN: dict[str, Spoil] = {
    "no JSON: cut off": lambda text: _document(text)[:-5],
    "no JSON: a comma too many": lambda text: _document(text)[:-1] + b",}",
    "no JSON: broken in its middle": _middle,
    "no JSON: a text without its end": lambda text: _document(text).replace(b'"city-', b"city-"),
    "no JSON: a bare word": lambda text: _document(text).replace(b'"express": ', b'"express": un'),
    "no JSON: a colon too few": lambda text: _document(text).replace(b'"items":', b'"items"'),
    "no JSON: a brace too many": lambda text: _document(text) + b"}",
    "two documents": lambda text: _document(text) * 2,
}


def _in_turn() -> Spoil:
    ways = itertools.cycle([*BROKEN.values(), _type])
    return lambda text: next(ways)(text)


#: What is bad, what is done about it, and what makes such a record of an event.
CASES: dict[str, tuple[Policy, Spoil]] = {
    "a value of another kind": (Policy.DEAD_LETTER, _type),
    "the same, beside its column": (Policy.VARIANT_COLUMN, _type),
    "a nested value of another kind": (Policy.DEAD_LETTER, _nested),
    **{name: (Policy.DEAD_LETTER, spoil) for name, spoil in BROKEN.items()},
    "all of these in turn": (Policy.DEAD_LETTER, _in_turn()),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--turns", type=int, default=20, help="batches of each kind")


def run(chosen: argparse.Namespace) -> int:
    good: list[bytes | None] = [json.dumps(event(number)).encode() for number in range(RECORDS)]
    for name, (policy, spoil) in CASES.items():
        values = list(good)
        dice = random.Random(SEED)
        for start in range(0, RECORDS, ONE_IN):
            place = start + dice.randrange(ONE_IN)
            values[place] = spoil(event(place))
        with tempfile.TemporaryDirectory() as folder:
            clean = _stage(Path(folder, "clean"), policy, good, good)
            spoilt = _stage(Path(folder, "spoilt"), policy, good, values)
            turns = [(clean(), spoilt()) for _ in range(chosen.turns)]
        first, second = zip(*turns, strict=True)
        ratio = min(second) / min(first)
        middle = statistics.median(second) / statistics.median(first)
        print(
            f"{name:32} {min(first):5.2f} us a record clean, {min(second):5.2f} with one in "
            f"{ONE_IN}: {ratio:.2f} (medians {middle:.2f})"
        )
    return 0


def _stage(
    folder: Path, policy: Policy, good: list[bytes | None], values: list[bytes | None]
) -> Callable[[], float]:
    """Decodes and writes these records once a call; CPU in microseconds a record."""
    decoder = decoder_of(rules=Rules(conflicts=Conflicts(policy)))
    raw = batch_of(values)
    # The columns are those of clean records, as in a table that is there.
    decoder.decode(batch_of(good))
    known: pa.Schema = decoder.decode(raw).table.schema
    config = config_at(folder)
    folder.mkdir()
    writer = DataFileWriter(create_table(catalog_of(config), NAME, known, config), config)
    calls = iter(range(1_000_000))

    def stage() -> float:
        began = time.process_time()
        writer.write([decoder.decode(raw).table], batch_id=f"batch-{next(calls)}")
        return (time.process_time() - began) / len(raw) * 1e6

    return stage

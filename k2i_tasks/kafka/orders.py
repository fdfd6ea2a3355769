"""Order events as a web shop would send them: about 270 bytes of JSON each, the same by seed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

CATEGORIES = ("shoes", "books", "garden", "kitchen", "toys", "audio", "bikes", "office")
CURRENCIES = ("EUR", "USD", "NOK", "GBP")
COUNTRIES = ("DE", "US", "NO", "CN", "FR", "BR")
EVENT_TYPES = ("view", "click", "add_to_cart", "purchase")
TAGS = ("new", "sale", "promo-22", "mobile-only", "returning", "vip")

#: Different bodies before they repeat, under other event ids.
POOL_SIZE = 5_000


@dataclass(frozen=True, slots=True)
class Order:
    """What is made beforehand of one event: its key, and its JSON from after the event id on to
    before the event time."""

    key: bytes
    middle: bytes


class OrderPool:
    """Makes events from a pool of prepared bodies, so that one costs a join of four strings.

    Args:
        seed: decides every body; event ids count up from 0, whatever the seed.
        size: number of different bodies.
    """

    def __init__(self, seed: int = 7, size: int = POOL_SIZE) -> None:
        random_numbers = random.Random(seed)
        self._orders = [_order(random_numbers) for _ in range(size)]

    def events(
        self, first: int, count: int, at_unix_seconds: float
    ) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values of the events numbered `first` to `first + count - 1`.

        Args:
            first: event id of the first.
            count: how many.
            at_unix_seconds: their event time.
        """
        tail = b'"' + iso_milliseconds(at_unix_seconds).encode() + b'"}'
        orders, size = self._orders, len(self._orders)
        for event_id in range(first, first + count):
            order = orders[event_id % size]
            yield order.key, b'{"event_id":%d%b%b' % (event_id, order.middle, tail)


def iso_milliseconds(unix_seconds: float) -> str:
    """`2026-01-31T12:00:00.250Z`."""
    moment = datetime.fromtimestamp(unix_seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _order(numbers: random.Random) -> Order:
    price = round(0.5 + numbers.random() * 500, 2)
    quantity = numbers.randrange(1, 9)
    user = numbers.randrange(10**7)
    body = {
        "event_type": numbers.choice(EVENT_TYPES),
        "user_id": user,
        "session_id": f"{numbers.getrandbits(40):010x}",
        "product": {
            "sku": f"SKU-{numbers.randrange(10**6):06d}",
            "category": numbers.choice(CATEGORIES),
            "price": price,
        },
        "quantity": quantity,
        "amount": round(price * quantity, 2),
        "currency": numbers.choice(CURRENCIES),
        "is_mobile": numbers.random() < 0.5,
        "tags": numbers.sample(TAGS, numbers.randrange(0, 3)),
        "country": numbers.choice(COUNTRIES),
    }
    text = json.dumps(body, separators=(",", ":"))[1:-1]
    return Order(f"u{user:08d}".encode(), f',{text},"event_time":'.encode())

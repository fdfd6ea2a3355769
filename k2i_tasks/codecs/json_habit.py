"""What is known of how the documents of a stream are laid out, from page to page."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pyarrow as pa

from k2i_tasks.codecs.json_layout import Layout, UnlikeError, layout_of
from k2i_tasks.codecs.json_walk import is_walkable

#: Fewer documents are not worth the steps of a walk.
WALK_RECORDS_MIN = 512
#: Documents that are read in one walk, at most: its columns are to fit a processor's cache.
WALK_RECORDS_MAX = 10_240
#: Mean bytes of documents above which Arrow's reader is as fast: a walk's steps grow with a text.
WALK_BYTES_MEAN_MAX = 1_000
#: Documents that a layout is learned from at once.
LESSONS = 16
#: One in so many documents, and a few, may be unlike the layout: each is read exactly.
UNLIKE_SHARE, UNLIKE_MIN = 64, 8
#: Records for which no layout is expected after more were unlike it; doubled each time.
PAUSE_RECORDS_MIN, PAUSE_RECORDS_MAX = 50_000, 3_200_000


class Habit:
    """The layout that one decoder expects."""

    def __init__(self) -> None:
        self._schema: pa.Schema | None = None
        self._layout: Layout | None = None
        self._walkable = False
        self._rest_records = 0
        self._pause_records = PAUSE_RECORDS_MIN

    def layout(
        self,
        schema: pa.Schema,
        records: int,
        size_bytes: int,
        sample: Callable[[int], Iterable[bytes]],
    ) -> Layout | None:
        """What to expect of the next so many records; None if nothing.

        Args:
            schema: wire types; another one has another layout.
            records: how many there are.
            size_bytes: of all of them.
            sample: gives so many documents to learn from.
        """
        if schema is not self._schema:
            self._schema, self._layout = schema, None
            self._walkable = all(is_walkable(field.type) for field in schema)
        if self._rest_records > 0:
            self._rest_records -= records
            return None
        few = records < WALK_RECORDS_MIN
        if not self._walkable or few or size_bytes > records * WALK_BYTES_MEAN_MAX:
            return None
        if self._layout is None:
            # Those with most members first, which tell the order of the others'.
            self.learn(sorted(sample(LESSONS), key=len, reverse=True))
            if self._layout is None:
                self.judged(held=False)
        return self._layout

    def learn(self, payloads: Iterable[bytes]) -> None:
        """Takes in how some documents are laid out, as far as they agree."""
        for payload in payloads:
            try:
                found = layout_of(payload, self._schema)
                self._layout = found if self._layout is None else self._layout.merged(found)
            except UnlikeError:
                continue

    def judged(self, *, held: bool) -> None:
        """Whether nearly all documents of a walk were as expected."""
        if held:
            self._pause_records = PAUSE_RECORDS_MIN
        else:
            # Another time from other documents: this one may be of a single odd one, or of a
            # program that is no more.
            self._layout = None
            self._rest_records = self._pause_records
            self._pause_records = min(2 * self._pause_records, PAUSE_RECORDS_MAX)

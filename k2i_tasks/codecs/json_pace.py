"""How much of a page of JSON is read at once, by how often what is read is refused."""

from __future__ import annotations

#: Size of one fast reading: halved after a refusal, doubled after so many clean ones. A refused one
#: is half wasted, and a small one costs more for each record. What is read is taken together again,
#: since making columns of it costs much for each part.
CLEAN_PARTS = 3
PART_RECORDS_MIN = 512
PART_RECORDS_MAX = 4096
#: Records without a refusal, after which a page is shared out among the processors. A share is read
#: in vain if one of its payloads is refused, and larger than a part: where there are two processors
#: and 20,000 records to a page, one refused of so many costs a tenth more reading.
WIDE_RECORDS = 100_000


class Pace:
    """The pace of one decoder, from page to page. A stream is taken for clean until it is not.

    Attributes:
        part_records: size of the next reading of a part.
    """

    def __init__(self) -> None:
        self.part_records = PART_RECORDS_MAX
        #: Read since the last refusal, or since the size of a part changed.
        self._clean_records = WIDE_RECORDS

    @property
    def wide(self) -> bool:
        """Whether the next reading is of all the page has left, on all processors."""
        return self.part_records == PART_RECORDS_MAX and self._clean_records >= WIDE_RECORDS

    def refused(self) -> None:
        """A payload of a reading was refused."""
        self._clean_records = 0
        self.part_records = max(self.part_records // 2, PART_RECORDS_MIN)

    def read(self, records: int) -> None:
        """None of so many were."""
        self._clean_records += records
        grows = self.part_records < PART_RECORDS_MAX
        if grows and self._clean_records >= CLEAN_PARTS * self.part_records:
            self._clean_records = 0
            self.part_records *= 2

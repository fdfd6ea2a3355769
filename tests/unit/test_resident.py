"""Free memory goes back to the system once the process is large, and not before."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from k2i_tasks import resident

#: Half of 256 MB is let go in between; in a process of its own, whose size is its own.
SCRIPT = """
import sys, time
from k2i_tasks import resident
resident.BASE_BYTES, resident.LOOK_SECONDS = int(sys.argv[1]) << 20, 0.01
pieces = [bytes(16_000) for _ in range(16_000)]
with resident.bounded(0):
    kept = pieces[::2]
    whole = resident.resident_bytes()
    del pieces
    deadline = time.monotonic() + 30
    while sys.argv[2] == "less" and resident.resident_bytes() > whole - (64 << 20):
        assert time.monotonic() < deadline, resident.resident_bytes()
        time.sleep(0.01)
    if sys.argv[2] == "same":
        time.sleep(0.3)
        assert resident.resident_bytes() > whole - (8 << 20)
"""


@pytest.mark.skipif(resident.trimmer() is None, reason="this C library cannot")
@pytest.mark.parametrize(("base_mb", "wanted"), [(50, "less"), (4_000, "same")])
def test_holes_are_given_back_by_a_large_process_alone(base_mb: int, wanted: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(base_mb), wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("grows", "trims"), [(0, 1), (resident.BASE_BYTES // 5, 2)])
def test_a_rest_ends_early_only_where_much_has_come_since(
    monkeypatch: pytest.MonkeyPatch, grows: int, trims: int
) -> None:
    """Far above its size, of which nothing can be given back."""
    given_back: list[int] = []
    looks = 0
    enough = threading.Event()

    def size() -> int:
        nonlocal looks
        looks += 1
        if looks > 40:
            enough.set()
        return 2 * resident.BASE_BYTES + (grows if looks > 20 else 0)

    monkeypatch.setattr(resident, "resident_bytes", size)
    monkeypatch.setattr(resident, "trimmer", lambda: lambda: given_back.append(looks))
    monkeypatch.setattr(resident, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(resident, "REST_TIMES", 1e9)
    monkeypatch.setattr(resident, "REST_SECONDS_MAX", 3_600.0)
    with resident.bounded(0):
        assert enough.wait(30)
    assert len(given_back) == trims

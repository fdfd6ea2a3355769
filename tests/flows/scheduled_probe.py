"""A flow for the test of schedules; does nothing that could fail."""

from __future__ import annotations

from prefect import flow


@flow(name="k2i-probe", log_prints=False)
def probe() -> None:
    """Ends at once."""

"""Which upkeep is due: never too early, never forgotten, one failing job never starves another."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from k2i_tasks.engine.schedule import AGAIN_SECONDS, FIRST_SECONDS, Schedule
from k2i_tasks.types import Job

EVERY = st.dictionaries(st.sampled_from(list(Job)), st.floats(1.0, 100_000.0), max_size=3)
#: Seconds that pass, seconds that a job takes, commits meanwhile, whether the job fails.
STEPS = st.lists(
    st.tuples(st.floats(0.0, 5_000.0), st.floats(0.0, 900.0), st.integers(0, 80), st.booleans()),
    max_size=60,
)


@given(EVERY, STEPS, st.integers(1, 60))
def test_each_job_comes_after_its_time_and_expiry_after_its_commits(
    every: dict[Job, float], steps: list[tuple[float, float, int, bool]], commits_max: int
) -> None:
    now, commits = 1_000.0, 0
    schedule = Schedule(every, commits_max=commits_max, now=now)
    due_at = {job: now + min(FIRST_SECONDS, seconds) for job, seconds in every.items()}
    for wait, takes, landed, failed in steps:
        now += wait
        commits += landed
        for _ in range(landed):
            schedule.committed()
        if commits >= commits_max and Job.EXPIRE in due_at:
            due_at[Job.EXPIRE] = min(due_at[Job.EXPIRE], now)
        late = [job for job, at in due_at.items() if at <= now]
        job = schedule.due(now)
        assert (job is None) == (not late)
        if job is None:
            continue
        assert due_at[job] == min(due_at[each] for each in late), "another has waited longer"
        now += takes
        schedule.over(job, now, failed=failed)
        due_at[job] = now + (min(AGAIN_SECONDS, every[job]) if failed else every[job])
        commits = 0 if job is Job.EXPIRE else commits


def test_nothing_is_ever_due_of_what_is_not_wanted() -> None:
    schedule = Schedule({Job.COMPACT: 10.0}, commits_max=1, now=0.0)
    schedule.committed()
    assert schedule.due(9.9) is None
    assert schedule.due(10.0) is Job.COMPACT
    schedule.over(Job.COMPACT, 10.0, failed=False)
    assert schedule.due(19.9) is None

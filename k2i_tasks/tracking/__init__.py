"""Shows the work of an ingest run in Prefect without ever waiting for Prefect.

Nothing here imports Prefect when it is imported: that costs more than a second, and the first
record does not wait for it. `k2i_tasks.tasks` and `k2i_tasks.prefect_api` do, and are loaded by
the thread that shows the run.
"""

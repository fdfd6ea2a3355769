"""`python -m benchmarks list` shows what can be measured, `... NAME` measures it."""

from __future__ import annotations

import argparse
import sys

from benchmarks import (
    commits,
    compare,
    corpus,
    demo,
    doors,
    drift,
    formats,
    freshness,
    hot,
    ingest,
    latency,
    limits,
    memory,
    profile,
    recovery,
    rpc,
    scaling,
    start,
    timeline,
    verify,
)

BENCHMARKS = {
    "commits": ("what a commit takes the longer the history, with upkeep and without", commits),
    "compare": ("ours and other engines on one topic, in turn, in one run", compare),
    "corpus": ("foreign documents into one table and one for each kind", corpus),
    "demo": ("from `python flows/ingest.py` to the first record and the first rows", demo),
    "doors": ("what clients of a running flow wait for, and what ingestion pays", doors),
    "formats": ("each payload format, clean and with bad records", formats),
    "drift": ("what one bad record in a thousand costs, decoded and written", drift),
    "freshness": (
        "the age of the newest row that an outsider sees, while maintenance runs",
        freshness,
    ),
    "hot": ("queries of rows in memory, and what it costs to keep them ready", hot),
    "ingest": ("typed JSON of a real broker into a REST catalog, killed on the way", ingest),
    "latency": ("from a sealed batch to its snapshot, and where the time goes", latency),
    "limits": ("the program beside its parts alone: client, decoding, Parquet, a chain", limits),
    "memory": ("peak memory with a small buffer, a large backlog and many partitions", memory),
    "profile": ("where the CPU of an ingestion goes, stage by stage", profile),
    "recovery": ("the start after a crash, on tables with 100 and 1000 snapshots", recovery),
    "rpc": ("all rows in memory and one of them for a client, beside K2I's read RPC", rpc),
    "scaling": ("rate and CPU over size, columns, partitions of topic and table, tables", scaling),
    "start": ("from `k2i ingest` on a table that exists to the first record", start),
    "timeline": ("the CPU of each stage over time, and how long two ran at once", timeline),
    "verify": ("`k2i verify` of a table of ten million rows", verify),
}


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True)
    commands.add_parser("list", help="what there is")
    for name, (text, module) in BENCHMARKS.items():
        module.add_arguments(commands.add_parser(name, help=text))
    chosen = parser.parse_args(words)
    if chosen.name == "list":
        for name, (text, _module) in BENCHMARKS.items():
            print(f"{name:10} {text}")
        return 0
    code: int = BENCHMARKS[chosen.name][1].run(chosen)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

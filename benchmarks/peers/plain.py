"""`plain.py BOOTSTRAP TOPIC URI WAREHOUSE TABLE SECONDS`: the loop that a Python user writes.

Poll, `json.loads`, `Table.from_pylist`, `table.append`, commit the offsets. Not exactly once.
"""

from __future__ import annotations

import datetime
import json
import sys
import time

import pyarrow as pa
from confluent_kafka import Consumer
from pyiceberg.catalog.rest import RestCatalog

bootstrap, topic, uri, warehouse, name, interval = sys.argv[1:]
table = RestCatalog("plain", uri=uri, warehouse=warehouse).load_table(name)
schema = table.schema().as_arrow()
consumer = Consumer(
    {
        "bootstrap.servers": bootstrap,
        "group.id": name,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
    }
)
consumer.subscribe([topic])
rows = []
last = time.monotonic()
while True:
    message = consumer.poll(0.2)
    if message is not None and message.error() is None:
        event = json.loads(message.value() or b"")
        event["event_time"] = datetime.datetime.fromisoformat(event["event_time"])
        rows.append(event)
    if rows and time.monotonic() - last >= float(interval):
        table.append(pa.Table.from_pylist(rows, schema=schema))
        consumer.commit(asynchronous=False)
        rows, last = [], time.monotonic()

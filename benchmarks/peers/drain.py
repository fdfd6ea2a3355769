"""`drain.py BOOTSTRAP TOPIC MESSAGES`: what librdkafka alone needs; values are not touched.

Prints seconds of CPU and time from the call that gives the first message on, as JSON.
"""

from __future__ import annotations

import gc
import json
import sys
import time

from confluent_kafka import Consumer, TopicPartition

bootstrap, topic, messages = sys.argv[1:]
# Messages die by reference count: there is nothing for the collector to find among them.
gc.disable()
consumer = Consumer(
    {
        "bootstrap.servers": bootstrap,
        "group.id": "drain",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "queued.max.messages.kbytes": 262_144,
        "queued.min.messages": 500_000,
    }
)
partitions = consumer.list_topics(topic, 30).topics[topic].partitions
consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
began = None
left = int(messages)
while left > 0:
    before = time.process_time(), time.monotonic()
    # As many as the program takes at once: their memory is still in the processor's cache when
    # it is used again. Calls for 10,000 take up to twice the CPU.
    count = len(consumer.consume(min(left, 2_000), 1))
    began = began if began is not None or not count else before
    left -= count
assert began is not None
cpu, wall = time.process_time() - began[0], time.monotonic() - began[1]
print(json.dumps({"cpu_seconds": cpu, "wall_seconds": wall}))

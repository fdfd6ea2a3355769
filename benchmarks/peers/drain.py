"""`drain.py BOOTSTRAP TOPIC MESSAGES`: what librdkafka alone needs; values are not touched."""

from __future__ import annotations

import sys

from confluent_kafka import Consumer, TopicPartition

bootstrap, topic, messages = sys.argv[1:]
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
left = int(messages)
while left > 0:
    left -= len(consumer.consume(min(left, 10_000), 1))

"""Everything that speaks to Kafka. The only package that imports `confluent_kafka`."""

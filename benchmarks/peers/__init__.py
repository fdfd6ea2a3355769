"""Other ways from Kafka to Iceberg, each as its makers would have it run, on the same work."""

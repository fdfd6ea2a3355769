"""The ways to a running flow's tables: Arrow Flight and HTTP, both with bearer tokens and TLS."""

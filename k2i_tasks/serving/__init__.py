"""What a running ingestion shows to probes and scrapers over HTTP."""

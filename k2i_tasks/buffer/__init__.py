"""The hot buffer: decoded rows that are not yet committed, in Arrow."""

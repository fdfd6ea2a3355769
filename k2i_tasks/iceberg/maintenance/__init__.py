"""Maintenance of a table: small files joined, snapshots expired, orphan files removed."""

"""Answers what clients ask of the tables of a running flow, within limits."""

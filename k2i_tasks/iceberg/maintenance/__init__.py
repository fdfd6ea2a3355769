"""Upkeep of one table while others write to it: the table alone is the truth."""

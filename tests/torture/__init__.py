"""Random crashes and faults of real processes, and the comparison of table and topic after each."""

"""Whether the committed table is the topic: positions, gaps, values."""

"""The pure engine: records, ticks and outcomes in, actions out. No I/O, no clock, no threads."""

"""What the program costs, measured; one command per figure."""

"""How things run: seeds, threads, processes, checkpoints, errors."""

"""The figures: numbers in, matplotlib figures out. No module here reads or computes a result."""

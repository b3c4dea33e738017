"""The figures: numbers in, matplotlib figures out. No module here reads or computes a result."""

import os

os.environ["MPLBACKEND"] = "Agg"  # a notebook's would fail: matplotlib reads this at its import

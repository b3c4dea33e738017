"""Any trained PyTorch network made smaller: find its blocks, translate them, put them in place."""

from kt.real.files import load
from kt.real.steps import Schedule
from kt.real.translate import Report, compress

__all__ = ["Report", "Schedule", "compress", "load"]

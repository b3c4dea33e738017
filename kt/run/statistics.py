"""Summaries of accuracies over networks."""

from scipy.special import stdtrit  # scipy.stats.t.ppf, which takes 2 s to import
from torch import Tensor


def summary(values: Tensor) -> dict[str, float | int]:
    """Mean, sample standard deviation, extremes, number, and 95 % interval over networks.

    `ci95` is the half-width of Student's interval for the mean, in the values' unit: the mean lies
    in mean +- ci95. Both it and `std` are 0 for a single value.
    """
    values = values.double()
    n = values.numel()
    std = values.std().item() if n > 1 else 0.0
    half_width = float(stdtrit(n - 1, 0.975)) * std / n**0.5 if n > 1 else 0.0
    return {
        "mean": round(values.mean().item(), 4),
        "std": round(std, 4),
        "min": round(values.min().item(), 4),
        "max": round(values.max().item(), 4),
        "n": n,
        "ci95": round(half_width, 4),
    }


def gap_closed(mean: float, low: float, high: float) -> float:
    """Share of the way from `low` to `high` in percent; 0 where there is no way to go."""
    return (mean - low) / (high - low) * 100 if high > low else 0.0

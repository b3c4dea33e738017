"""How wide each block of a network may be, for a given cost of the whole."""

import math
from collections.abc import Mapping
from itertools import pairwise

from kt.real.blocks import Block
from kt.real.cost import at_widths, layers
from kt.run.errors import KTError

FRACTIONS = (3 / 4, 1 / 2, 1 / 4, 1 / 8)
"""Of its channels: widths at which a block's harm is measured."""


def measured_at(channels: int) -> list[int]:
    """Widths at which to measure the harm of making a block smaller."""
    return sorted({max(1, round(channels * fraction)) for fraction in FRACTIONS} - {channels})


def allowed(channels: int, round_to: int) -> list[int]:
    """All widths of a block that are multiples of a number, and its own; increasing."""
    return [*range(min(round_to, channels), channels, round_to), channels]


def given(blocks: list[Block], wanted: Mapping[str, int]) -> dict[str, int]:
    """Widths that were asked for; other blocks stay.

    Raises:
        KTError: one is not possible.
    """
    channels = {block.into: block.channels for block in blocks}
    for name, width in wanted.items():
        if name not in channels:
            raise KTError(f"keep: {name} opens no block; these do: {', '.join(channels)}")
        if not 1 <= width <= channels[name]:
            raise KTError(f"keep: {name} has {channels[name]} channels, not {width}")
    return channels | dict(wanted)


def by_harm(
    blocks: list[Block],
    harm: Mapping[str, Mapping[int, float]],
    costs: Mapping[str, int],
    budget: float,
    round_to: int,
) -> dict[str, int]:
    """Widths that do the least harm within a budget, harms of blocks taken to add up.

    Starting from all channels, that block is made smaller, and so far, which saves the most for the
    harm that it does.

    Args:
        harm: of each block, by the name of its first map: what making it alone so narrow does to
            the network's answers, at some widths.
        costs: of each layer at full width.
        budget: for their sum.

    Raises:
        KTError: all blocks at their narrowest cost more.
    """
    widths = {block.into: block.channels for block in blocks}
    curves = {
        block.into: {
            width: _between(harm[block.into], block.channels, width)
            for width in allowed(block.channels, round_to)
        }
        for block in blocks
    }
    while (now := sum((each := at_widths(costs, blocks, widths)).values())) > budget:
        best = None
        for block in blocks:
            name = block.into
            own, curve = widths[name], curves[name]
            cost = sum(each.get(layer, 0) for layer in layers(block))  # in proportion to its width
            for width in curve:
                if width >= own:
                    break
                # What lies beyond the budget saves nothing that is asked for.
                saved = min(cost * (1 - width / own), now - budget)
                price = (curve[width] - curve[own]) / saved if saved else math.inf
                if best is None or price < best[0]:
                    best = price, name, width
        if best is None:
            raise _too_little(now, costs, round_to)
        widths[best[1]] = best[2]
    return widths


def evenly(
    blocks: list[Block], costs: Mapping[str, int], budget: float, round_to: int
) -> dict[str, int]:
    """Widths in the same proportion to all blocks' channels, the widest within a budget.

    Raises:
        KTError: all blocks at their narrowest cost more.
    """
    low, high = 0.0, 1.0

    def at(share: float) -> dict[str, int]:
        return {
            block.into: max(
                (w for w in allowed(block.channels, round_to) if w <= share * block.channels),
                default=allowed(block.channels, round_to)[0],
            )
            for block in blocks
        }

    def cost(share: float) -> float:
        return sum(at_widths(costs, blocks, at(share)).values())

    if cost(high) <= budget:
        return at(high)
    if cost(low) > budget:
        raise _too_little(cost(low), costs, round_to)
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) <= budget else (low, middle)
    return at(low)


def _between(harm: Mapping[int, float], channels: int, width: int) -> float:
    """The harm at any width: between those measured, a power of the share of channels dropped."""
    if width == channels:
        return 0.0
    # Noise apart, fewer channels do more harm.
    points, most = [], 1e-12
    for measured in sorted(harm, reverse=True):
        most = max(most, harm[measured])
        points.append((math.log(1 - measured / channels), math.log(most)))
    at = math.log(1 - width / channels)
    if at <= points[0][0] or len(points) == 1:
        return math.exp(points[0][1] + 2 * (at - points[0][0]))  # as small errors do: squared
    for (x0, y0), (x1, y1) in pairwise(points):
        if at <= x1 or (x1, y1) == points[-1]:
            return math.exp(y0 + (y1 - y0) * (at - x0) / (x1 - x0))
    raise AssertionError("unreachable")


def _too_little(least: float, costs: Mapping[str, int], round_to: int) -> KTError:
    share = math.ceil(1000 * least / sum(costs.values())) / 1000
    multiples = f" (round_to is {round_to})" if round_to > 1 else ""
    what = f"with all blocks as narrow as they may be{multiples} the rest still costs"
    return KTError(f"keep is too small: {what} {share:.1%}")

"""What experiments ask of numbers that they are given."""

from __future__ import annotations

import math


def within(name: str, value: float | None, least: float, most: float = math.inf) -> None:
    """Complain about a number that is smaller than one or larger than another; None is none."""
    if value is not None and not least <= value <= most:
        wanted = f"at least {least}" if most == math.inf else f"{least} to {most}"
        raise ValueError(f"{name}: got {value}, wanted {wanted}")

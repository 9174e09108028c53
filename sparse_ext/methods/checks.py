"""What several methods ask of their arguments. Each raises a ValueError that says what was expected."""

from __future__ import annotations

from collections.abc import Collection


def check_interval(name: str, value: float) -> None:
    """Steps between updates: a whole number, at least 1."""
    if value < 1 or value != int(value):
        raise ValueError(f"expected a whole {name} of at least 1, got {value}")


def check_choice(name: str, value: str, known: Collection[str]) -> None:
    """One of these names."""
    if value not in known:
        raise ValueError(f"expected {name} to be one of {', '.join(map(repr, known))}, got {value!r}")


def check_gradient_steps(steps: float, update_interval: int) -> None:
    """Steps over which a gradient is summed: a whole number, no more than there are between updates."""
    if not 1 <= steps <= update_interval or steps != int(steps):
        raise ValueError(f"expected a whole gradient_steps from 1 to update_interval ({update_interval}), got {steps}")

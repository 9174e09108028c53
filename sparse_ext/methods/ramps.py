"""What methods that prune share: windows of a run, the cubic ramp, and which layers lose how many positions."""

from __future__ import annotations

from collections.abc import Mapping

from .checks import check_choice
from .numbers import LayerNumbers, Layers
from .schedules import check_when, step_at

SCOPES = ("layer", "global")


def window(start: float | int, end: float | int, total_steps: int) -> tuple[int, int]:
    """The first and last step of a window, which are not the same. The last is one of the run's, so that its end is reached."""
    last = min(max(1, step_at(end, total_steps)), total_steps)
    return min(step_at(start, total_steps), last - 1), last


def ramp(first: float, last: float, start: int, end: int, step: int) -> float:
    """The cubic ramp from one density to another."""
    if step >= end:
        return last
    return last + (first - last) * (1.0 - max(0, step - start) / (end - start)) ** 3


def surplus(layers: Mapping[str, LayerNumbers], counts: Mapping[str, int], scope: str) -> dict[str, int]:
    """How many positions each layer has to lose, of smallest magnitude, so that these counts, or their sum, remain."""
    if scope == "layer":
        return {name: max(0, layer.nnz - counts[name]) for name, layer in layers.items()}
    drop = sum(layer.nnz for layer in layers.values()) - sum(counts.values())
    if drop <= 0:
        return dict.fromkeys(layers, 0)
    assert isinstance(layers, Layers)
    return layers.smallest(drop)


def check_initial_sparsity(sparsity: float) -> None:
    """ValueError unless it is in [0, 1)."""
    if not 0.0 <= sparsity < 1.0:
        raise ValueError(f"expected initial_sparsity in [0, 1), got {sparsity}")


def check_window(start_name: str, start: float | int, end_name: str, end: float | int) -> None:
    """ValueError unless these are times, the one not after the other."""
    check_when(start_name, start)
    check_when(end_name, end)
    if isinstance(start, float) == isinstance(end, float) and start > end:
        raise ValueError(f"expected {start_name} not after {end_name}, got {start} and {end}")


def check_scope(scope: str) -> None:
    """ValueError unless there is such a scope."""
    check_choice("scope", scope, SCOPES)

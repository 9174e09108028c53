"""Colours, and what each arm looks like: a colour, a marker and a dash, so that none has to be told by its colour alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# {role: its colour on a light page, and on a dark one}. Arms have about the hues of Okabe and Ito, as dark or light as it takes
# for a contrast of 3:1, and for people to tell any two apart whichever cones they lack: tests/report/test_looks.py.
COLORS = {
    "surface": ("#ffffff", "#14171a"),
    "raised": ("#f6f5f1", "#1d2125"),
    "ink": ("#1a1c1e", "#eceae4"),
    "muted": ("#5c6167", "#a7adb3"),
    "rule": ("#d8d7d2", "#3a4046"),
    "grid": ("#e9e8e4", "#262b30"),
    "accent": ("#0a5c8f", "#7cc0ee"),
    "saved": ("#00694a", "#4fd0a3"),
    "loss": ("#855c00", "#f0b93f"),
    "not-saved": ("#ac3b06", "#ff9a66"),
    "arm-0": ("#3a3d41", "#d3d1cb"),
    "arm-1": ("#b03a00", "#ff8a3d"),
    "arm-2": ("#00609c", "#3a9fe0"),
    "arm-3": ("#00886a", "#2fc79a"),
    "arm-4": ("#c0609c", "#e88bc4"),
    "arm-5": ("#b58a00", "#f5d860"),
    "arm-6": ("#3d9bd6", "#b0e4ff"),
    "arm-7": ("#5a3a1a", "#a87b4a"),
    "part-1": ("#2f4a66", "#86a9cc"),
    "part-2": ("#b03a00", "#ff8a3d"),
    "part-3": ("#7fa3c4", "#4d7296"),
    "part-4": ("#b58a00", "#f0cd55"),
    "part-5": ("#b9b7b0", "#6c7278"),
}
_ROLES = tuple(COLORS)
PREFIX = "#5eed"  # of the colours that stand for roles while a plot is drawn

MARKERS = ("o", "s", "^", "D", "v", "X", "P", "<", ">", "d")
DASHES = ("solid", (0, (5, 1.8)), (0, (1.6, 1.6)), (0, (6, 1.6, 1.6, 1.6)))
_OTHERS = [role for role in COLORS if role.startswith("arm-") and role != "arm-0"]


@dataclass(frozen=True)
class Look:
    """Of an arm, the same in all plots. `color` is a role."""

    color: str
    marker: str
    dash: object


def looks(arms: int) -> list[Look]:
    """The reference's, which is grey, and those of the others: no two are the same among 140."""
    return [Look("arm-0", MARKERS[0], DASHES[0])] + [
        Look(_OTHERS[i % len(_OTHERS)], MARKERS[(i + 1) % len(MARKERS)], DASHES[i % len(DASHES)]) for i in range(arms - 1)
    ]


def drawn(role: str) -> str:
    """The colour that stands for a role while a plot is drawn; `variable` has the role back."""
    return f"{PREFIX}{_ROLES.index(role):02x}"


def variable(color: str) -> str:
    """The CSS variable of a colour that `drawn` gave."""
    return f"var(--{_ROLES[int(color.removeprefix(PREFIX), 16)]})"


def css() -> str:
    """The variables of a light page, and of a dark one where the reader prefers that."""
    light, dark = (_variables((role, pair[i]) for role, pair in COLORS.items()) for i in (0, 1))
    return f":root{{{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def _variables(colors: Iterable[tuple[str, str]]) -> str:
    return "".join(f"--{role}:{color};" for role, color in colors)

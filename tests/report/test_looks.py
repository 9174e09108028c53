"""What arms look like: contrasts, and differences that people see who lack a kind of cones."""

from itertools import combinations

import numpy as np
import pytest

from sparse_ext.report.page import looks

TEXT = ("ink", "muted", "accent", "saved", "loss", "not-saved")
ARMS = [role for role in looks.COLORS if role.startswith("arm-")]
PARTS = [role for role in looks.COLORS if role.startswith("part-")]

# Linear RGB as people see it who lack the cones for long, middle or short waves: Machado, Oliveira and Fernandes 2009.
SEEN = {
    "all cones": np.eye(3),
    "no L": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no M": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no S": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(color):
    """Of sRGB, as "#rrggbb"."""
    parts = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """WCAG 2."""
    low, high = sorted(float(TO_XYZ[1] @ linear(color)) for color in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(seen):
    """CIE L*a*b*, in which distances are differences: about 2 are just seen."""
    x, y, z = np.cbrt(TO_XYZ @ seen.clip(1e-3, 1) / TO_XYZ.sum(axis=1))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.fixture(params=[0, 1], ids=["light", "dark"])
def colors(request):
    return {role: pair[request.param] for role, pair in looks.COLORS.items()}


def test_colors_can_be_seen(colors):
    for surface in ("surface", "raised"):
        assert [role for role in TEXT if contrast(colors[role], colors[surface]) < 4.5] == []
    assert [role for role in ARMS if contrast(colors[role], colors["surface"]) < 3.0] == []


@pytest.mark.parametrize("eyes", SEEN)
@pytest.mark.parametrize(("roles", "least"), [(ARMS, 14), (PARTS, 14)], ids=["arms", "parts"])
def test_colors_can_be_told_apart(colors, eyes, roles, least):
    seen = {role: lab(np.array(SEEN[eyes]) @ linear(colors[role])) for role in roles}
    distances = {pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]]).item() for pair in combinations(roles, 2)}
    assert {pair: distance for pair, distance in distances.items() if distance < least} == {}


def test_no_two_arms_look_the_same():
    assert len({(look.color, look.marker, str(look.dash)) for look in looks.looks(140)}) == 140
    first = looks.looks(8)
    assert len({look.color for look in first}) == len({look.marker for look in first}) == 8


def test_a_color_stands_for_its_role():
    assert [looks.variable(looks.drawn(role)) for role in looks.COLORS] == [f"var(--{role})" for role in looks.COLORS]

"""Layers of layout "2:4" for the tests of this folder: packed, and with a dense weight, for each rule that chooses of it."""

import torch

from sparse_ext import SparseLinear

CAPACITIES = {"packed": 0.5, "dense": 1.0}
RULES = ("largest", "transposable", "soft")


def made(capacity=None, rule=None, cols=13, **options):
    layer = SparseLinear(cols, 9, layout="2:4", capacity=capacity, **options)
    if rule is not None:
        layer.choose_(rule)
    return layer


X = torch.randn(5, 13, generator=torch.Generator().manual_seed(0))
ALL = {"packed": lambda **o: made(0.5, **o)} | {rule: lambda r=rule, **o: made(1.0, r, **o) for rule in RULES}

"""Layers of layout "2:4" for the tests of this folder: packed, and with a dense master of which products take each choice."""

import torch

from sparse_ext import SparseLinear

CAPACITIES = {"packed": 0.5, "master": 1.0}
CHOICES = ("largest", "transposable", "soft", "dense")


def made(capacity=None, choice=None, cols=13, **options):
    layer = SparseLinear(cols, 9, layout="2:4", capacity=capacity, **options)
    if choice is not None:
        layer.prune_(choice)
    return layer


X = torch.randn(5, 13, generator=torch.Generator().manual_seed(0))
ALL = {"packed": lambda **o: made(0.5, **o)} | {choice: lambda c=choice, **o: made(1.0, c, **o) for choice in CHOICES}

"""What an estimate says of all layers together."""

import pytest
import torch
from torch import nn

import sparse_ext as sx


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_ddp_holds_beside_is_told(ranks):
    found = sx.estimate(nn.Sequential(nn.Linear(8, 8)), 0.5, "csr", tokens=1, ranks=ranks)
    assert any("buckets of DDP are not counted" in one for one in found.notes) == (ranks > 1)


def test_the_density_of_a_model_is_that_of_its_positions():
    """Of a convolution, too, which multiplies each weight by many pixels: 1 x 36 and 0.25 x 1024 of 1060."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 16))
    found = sx.estimate(model, 0.75, "csr", inputs=torch.zeros(2, 1, 30, 30), exclude=["0"], distribution="uniform")
    assert found.model.density == pytest.approx((36 + 256) / 1060)

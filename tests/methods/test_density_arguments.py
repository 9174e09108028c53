"""What methods that change densities refuse: wrong choices, layouts of one density, layers that begin too sparse."""

import re

import pytest
import torch
from torch import nn

import sparse_ext as sx

CHANGING = (sx.GMP, sx.GraNet, sx.ACDC, sx.ESTDGM)

WRONG = [
    (sx.GMP, {"initial_sparsity": 1.0}, "expected initial_sparsity in [0, 1), got 1.0"),
    (sx.GMP, {"t_start": 0.8}, "expected t_start not after t_end, got 0.8 and 0.75"),
    (sx.GMP, {"t_end": 1.5}, "expected t_end as a share of the run in [0, 1] (float) or a number of steps (int), got 1.5"),
    (sx.GMP, {"t_start": -1}, "expected t_start as a share of the run in [0, 1] (float) or a number of steps (int), got -1"),
    (sx.GMP, {"update_interval": 0}, "expected a whole update_interval of at least 1, got 0"),
    (sx.GMP, {"scope": "model"}, "expected scope to be one of 'layer', 'global', got 'model'"),
    (sx.GraNet, {"initial_sparsity": -0.1}, "expected initial_sparsity in [0, 1), got -0.1"),
    (sx.GraNet, {"ramp_start": 0.9}, "expected ramp_start not after ramp_end, got 0.9 and 0.6875"),
    (sx.GraNet, {"scope": "x"}, "expected scope to be one of"),
    (sx.GraNet, {"drop_fraction": 2.0}, "expected drop_fraction in [0, 1], got 2.0"),
    (sx.ACDC, {"update_interval": 0}, "expected an update_interval above 0, got 0"),
    (sx.ACDC, {"update_interval": 1.5}, "expected update_interval as a share of the run"),
    (sx.ACDC, {"t_start": 0.9}, "expected t_start not after t_end, got 0.9 and 0.85"),
    (sx.ACDC, {"scope": "x"}, "expected scope to be one of"),
    (sx.ESTDGM, {"cycles": 0}, "expected a whole number of cycles, at least 1, got 0"),
    (sx.ESTDGM, {"phases": (0.5, 0.6, 0.2)}, "expected three phases, shares of a cycle that sum to 1, got (0.5, 0.6, 0.2)"),
    (sx.ESTDGM, {"densities": (0.5, 0.0)}, "expected two densities in (0, 1], got (0.5, 0.0)"),
    (sx.ESTDGM, {"selection": "best"}, "expected selection to be one of 'literal', 'split', 'blend', got 'best'"),
    (sx.ESTDGM, {"gradient_steps": 101}, "expected a whole gradient_steps from 1 to update_interval (100), got 101"),
    (sx.ESTDGM, {"magnitude_power": 0.0}, "expected a finite magnitude_power above 0, got 0.0"),
    (sx.ESTDGM, {"sign_power": -1.0}, "expected a finite sign_power of at least 0, got -1.0"),
    (sx.ESTDGM, {"blend": float("inf")}, "expected a finite blend of at least 0, got inf"),
]


@pytest.mark.parametrize(("kind", "choices", "sentence"), WRONG)
def test_wrong_choices_are_named(kind, choices, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        kind(**choices)


@pytest.mark.parametrize("kind", CHANGING)
def test_layouts_of_one_density_are_refused(kind):
    model = nn.Sequential(sx.SparseLinear(8, 8, layout="2:4"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sentence = (
        f"{kind.__name__} changes the density of layers, got layers whose layout has one density only: 0; use layout='auto'"
    )
    with pytest.raises(ValueError, match=re.escape(sentence)):
        sx.Sparsifier(model, optimizer, kind(), total_steps=10)


@pytest.mark.parametrize("kind", CHANGING)
def test_layers_that_begin_too_sparse_are_refused(kind):
    model = nn.Sequential(sx.SparseLinear(8, 8, sparsity=0.9))
    sparsifier = sx.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), kind(), total_steps=10)
    with pytest.raises(ValueError, match=r"begins with denser layers .* 0; pass method=\.\.\. to sparsify_"):
        sparsifier.step()

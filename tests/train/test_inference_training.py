"""A Sparsifier built, stepped, loaded, copied or told to track in inference mode: what it keeps is used in training later."""

import copy

import pytest
import torch
from torch.optim.swa_utils import AveragedModel
from training import CHANGING, OPTIMIZERS, assert_same, backward, everything, method_named, mlp, run

import sparse_ext as sx

MODES = {"inference": torch.inference_mode, "no_grad": torch.no_grad}


def build(name, layout):
    model = mlp(layout=layout, method=name)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    method = method_named(name, update_interval=3, refresh_interval=3, t_end=1.0, mvue=True)
    return model, optimizer, lambda: sx.Sparsifier(model, optimizer, method, total_steps=100)


def trained(name, layout, mode, halves=1):
    """All that 12 steps change, where everything but the passes and the optimizer's steps happens in this mode."""
    model, optimizer, make = build(name, layout)
    with mode():
        sparsifier = make()
        copies = AveragedModel(model) if mode is not torch.inference_mode else None
        if copies is not None:
            sparsifier.track(copies)
    for step in range(1, 13):
        for half in range(halves):
            backward(model, 10 * step + half)
        optimizer.step()
        with mode():
            sparsifier.step()
            if step == 4:
                sparsifier.load_state_dict(copy.deepcopy(sparsifier.state_dict()))
                sparsifier.report()
        optimizer.zero_grad()
    return everything(model, optimizer)


@pytest.mark.parametrize("halves", [1, 2])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "layout"), CHANGING)
def test_training_goes_on_as_without_it(name, layout, mode, halves):
    assert_same(trained(name, layout, MODES[mode], halves), trained(name, layout, torch.enable_grad, halves))


def test_a_copy_of_everything_made_in_inference_mode_is_refused():
    """Its weights cannot be trained, as those of a copy of `nn.Linear` cannot."""
    model, optimizer, make = build("rigl", "csr")
    sparsifier = make()
    run(model, optimizer, sparsifier, range(1, 6))
    with torch.inference_mode():
        twin = copy.deepcopy(model)
    message = "expected weights that can be trained, got inference tensors in 0, 2: .* outside of inference mode"
    with pytest.raises(ValueError, match=message):
        sx.Sparsifier(twin, OPTIMIZERS["adamw"](twin.parameters()), sx.RigL(), total_steps=9)
    with pytest.raises(ValueError, match="track: expected weights that can be written, got an inference tensor in '0'"):
        sparsifier.track(twin)
    assert run(model, optimizer, sparsifier, range(6, 12)) == 2

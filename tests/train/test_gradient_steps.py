"""RigL(gradient_steps=n): growth by the dense gradient summed over the last n steps before an update."""

import copy

import pytest
import torch
from training import at, constant_rigl, positions, push

import sparse_ext as sx


def summed_rigl(gradient_steps=2):
    """Updates at 3, 6, ...; each replaces the weakest of 4 entries by the gradient of so many steps."""
    return constant_rigl(t_end=1.0, gradient_steps=gradient_steps)


def push_all(model, sparsifier, gradients):
    """[did the pattern change]"""
    changes = []
    for gradient in gradients:
        push(model, gradient)
        changes.append(sparsifier.step())
    return changes


def test_several_steps_are_summed_before_the_magnitude():
    model, sparsifier = summed_rigl()
    # Of the last two steps, 7 is strongest in the sum, 2 in the first, in the last and in the sum of magnitudes.
    gradients = [at(3, 9.0), at(2, 2.0) + at(7, 1.0), at(2, -2.0) + at(7, 1.0)]
    assert push_all(model, sparsifier, gradients) == [False, False, True]
    assert positions(model[0]).tolist() == [1, 4, 5, 7]


def test_only_observed_steps_compute_a_dense_gradient():
    model, sparsifier = summed_rigl()
    flops = []
    for _ in range(6):
        flops.append(sx.count_flops(lambda: push(model, at(2, 1.0))))
        sparsifier.step()
    plain, armed = min(flops), max(flops)
    assert armed > plain
    assert flops == [plain, armed, armed] * 2


def test_a_non_finite_step_starts_the_sum_anew():
    model, sparsifier = summed_rigl()
    gradients = [at(2, 1.0), at(2, float("inf")), at(2, 1.0), at(3, 2.0), at(2, 1.0)]
    assert push_all(model, sparsifier, gradients) == [False, False, False, False, True]
    assert positions(model[0]).tolist() == [1, 3, 4, 5]


@pytest.mark.parametrize("copied", [False, True], ids=["state_dict", "deepcopy"])
def test_the_sum_so_far_goes_with_the_sparsifier(copied):
    model, sparsifier = summed_rigl()
    push_all(model, sparsifier, [at(3, 9.0), at(2, 2.0)])
    if copied:
        model, sparsifier = copy.deepcopy((model, sparsifier))
    else:
        state = sparsifier.state_dict()
        model, sparsifier = summed_rigl()
        sparsifier.load_state_dict(state)
    assert push_all(model, sparsifier, [at(7, 1.0)]) == [True]
    assert positions(model[0]).tolist() == [1, 2, 4, 5]


def test_a_sum_of_the_wrong_shape_is_refused():
    model, sparsifier = summed_rigl()
    push_all(model, sparsifier, [at(3, 9.0), at(2, 2.0)])
    state = sparsifier.state_dict()
    state["signals"]["0"]["gradient"]["total"] = torch.zeros(4, 2)
    with pytest.raises(
        ValueError, match=r"expected signals of shapes \{'0': \[2, 4\]\}, got 'gradient' of '0' with .*\[4, 2\]"
    ):
        sparsifier.load_state_dict(state)
    assert push_all(model, sparsifier, [at(7, 1.0)]) == [True]
    assert positions(model[0]).tolist() == [1, 2, 4, 5]

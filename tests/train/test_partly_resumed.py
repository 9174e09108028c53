"""Frozen parts go with checkpoints and copies, and follow changes of the pattern."""

import copy
import io

import pytest
import torch
from frozen_parts import BY, EVERY, LAYOUTS, check_frozen, frozen, network, snapshot, trainer
from training import assert_same, everything, run

import sparse_ext as sx


@pytest.mark.parametrize("at", [3, 4, 6])
@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_resume_is_exact(layout, by, at):
    """Before a scoring step, after it, and in between; a model that had trained otherwise."""
    model = network(layout)
    optimizer, sparsifier = trainer(model, "adamw", granularity=by, smoothing=0.5)
    run(model, optimizer, sparsifier, range(1, at + 1))
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), sparsifier.state_dict()], file)
    file.seek(0)
    states = torch.load(file, weights_only=True)
    twin = network(layout)
    own, other = trainer(twin, "adamw", granularity=by, smoothing=0.5)
    run(twin, own, other, range(50, 57))
    for one, state in zip((twin, own, other), states, strict=True):
        one.load_state_dict(state)
    for trio in ((model, optimizer, sparsifier), (twin, own, other)):
        run(*trio, range(at + 1, at + 12))
    assert_same(everything(twin, own), everything(model, optimizer))
    assert str(other.report()) == str(sparsifier.report())


def test_a_state_of_another_shape_is_refused():
    model = network()
    optimizer, sparsifier = trainer(model)
    run(model, optimizer, sparsifier, range(1, 6))
    state = sparsifier.state_dict()
    state["trained"]["0"]["element"] = state["trained"]["0"]["element"][:-1]
    before = everything(model, optimizer)
    with pytest.raises(ValueError, match=r"trained: expected of '0' .*element \[240\]"):
        sparsifier.load_state_dict(state)
    assert_same(everything(model, optimizer), before)


def test_a_deep_copy_of_everything_trains_on():
    model = network("csr")
    optimizer = EVERY["adamw"](model.parameters())
    method = sx.Together(sx.RigL(update_interval=3, gradient_steps=2), sx.SAT(update_interval=4))
    trio = model, optimizer, sx.Sparsifier(model, optimizer, method, total_steps=50)
    run(*trio, range(1, 7))
    twins = copy.deepcopy(trio)
    assert run(*trio, range(7, 20)) == run(*twins, range(7, 20)) == 4
    assert_same(everything(*twins[:2]), everything(*trio[:2]))


def test_a_pattern_that_is_loaded_takes_its_part_along():
    model = network("csr")
    optimizer, sparsifier = trainer(model, "adamw")
    run(model, optimizer, sparsifier, range(1, 6))
    other = network("csr")
    for name in ("0", "2"):
        layer = other.get_submodule(name)
        layer.set_matrix_(torch.randn(layer.product.weight_shape))
    was = {m.name: dict(zip(m.layer.slots().tolist(), m.part.trained.tolist(), strict=True)) for m in sparsifier._layers}
    model.load_state_dict(other.state_dict())
    for managed in sparsifier._layers[:2]:
        for at, trains in zip(managed.layer.slots().tolist(), managed.part.trained.tolist(), strict=True):
            assert at < 0 or trains == was[managed.name].get(at, True)
    before = snapshot(optimizer, sparsifier)
    run(model, optimizer, sparsifier, range(6, 8))
    check_frozen(optimizer, sparsifier, before)


def test_together_keeps_what_is_frozen_through_changes_of_the_pattern():
    model = network("csr")
    optimizer = EVERY["adamw"](model.parameters())
    method = sx.Together(sx.RigL(update_interval=2, t_end=1.0), sx.SAT(update_interval=5))
    sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=50)
    run(model, optimizer, sparsifier, range(1, 6))
    for step in range(6, 10):
        layer, part = sparsifier._layers[0].layer, sparsifier._layers[0].part
        still = frozen(sparsifier._layers[0])
        still = dict(zip(layer.slots()[still].tolist(), layer.weight[still].tolist(), strict=True))
        changed = run(model, optimizer, sparsifier, range(step, step + 1))
        assert changed == (step % 2 == 0)
        now = dict(zip(layer.slots().tolist(), layer.weight.tolist(), strict=True))
        assert all(now[at] == value for at, value in still.items() if at in now)
        assert int(part.trained.sum()) > 0


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("layout", ["csr", "masked"])
def test_resume_in_any_order_beside_rigl(layout, order):
    """The pattern that the state belongs to may be loaded before or after it."""

    def build(seed):
        torch.manual_seed(seed)
        model = network(layout)
        optimizer = EVERY["adamw"](model.parameters())
        method = sx.Together(sx.RigL(update_interval=3, t_end=1.0), sx.SAT(update_interval=4))
        return model, optimizer, sx.Sparsifier(model, optimizer, method, total_steps=60)

    trio, twins = build(0), build(1)
    run(*trio, range(1, 12))
    states = [copy.deepcopy(one.state_dict()) for one in trio]
    run(*twins, range(20, 27))
    for number in order:
        twins[number].load_state_dict(states[number])
    parts = [[managed.part.trained for managed in sparsifier._layers] for sparsifier in (trio[2], twins[2])]
    assert all(torch.equal(one, other) for one, other in zip(*parts, strict=True))
    for one in (trio, twins):
        run(*one, range(12, 20))
    assert_same(everything(*twins[:2]), everything(*trio[:2]))

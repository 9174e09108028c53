"""MEST: how many a layer drops and grows, by hand; only gradients of stored weights are used, as the step has used them."""

import math
import warnings

import pytest
import torch
from torch import nn

import sparse_ext as sx
from sparse_ext.methods import LayerNumbers, Regrow, Time


def numbers(nnz, *, target=None, capacity=9000):
    """A layer of 100 x 100."""
    return LayerNumbers(100, 100, capacity, "csr", dense_weight=False, count=lambda: nnz, total=lambda name: 0.0, target=target)


def updates(method, total_steps):
    return [step for step in range(total_steps + 2) if method.is_update(Time(step, total_steps))]


def plan(method, step, nnz, **choices):
    return {
        (action.drop, action.grow)
        for action in method.plan({"a": numbers(nnz, **choices)}, Time(step, 100)).values()
        if action == Regrow(action.drop, action.grow, keep_by="weight and gradient")
    }


def test_the_schedule_of_the_paper():
    """Epochs 90 and 120 of 160, every 5 epochs."""
    method = sx.MEST(update_interval=5)
    assert updates(method, 160) == [*range(5, 120, 5)]
    shares = [method.share(Time(step, 160)) for step in range(161)]
    assert shares == [0.0] + 89 * [0.2] + 30 * [0.1] + 41 * [0.0]


def test_elastic_mutation_by_hand():
    method = sx.MEST(mutation=(0.25, 0.1), until=(0.5, 0.8), update_interval=10)
    assert plan(method, 10, 1003) == {(250, 250)}
    assert plan(method, 50, 1003) == {(100, 100)}
    assert plan(method, 80, 1003) == plan(method, 0, 1003) == plan(method, 10, 3) == set()
    assert (method.changes_density, method.max_density(0.1)) == (False, 0.1)


def test_the_soft_bound_by_hand():
    """Target 1000: grow to 1250, replace 250, come down to 1100 and replace 100, end at 1000."""
    method = sx.MEST(mutation=(0.25, 0.1), until=(0.5, 0.75), update_interval=20, soft=True)
    assert updates(method, 100) == [20, 40, 60, 75, 80, 100]
    nnz = []
    for step, before in ((20, 1000), (40, 1250), (60, 1250), (75, 1100), (80, 1000)):
        for drop, grow in plan(method, step, before, target=1000):
            nnz.append((drop, grow, before - drop + grow))
    assert nnz == [(0, 250, 1250), (250, 250, 1250), (250, 100, 1100), (100, 0, 1000)]
    assert plan(method, 80, 1100, target=1000) == {(100, 0)}  # an update that could not be made at the end
    assert plan(method, 20, 900, target=1000) == {(0, 350)}
    assert plan(method, 20, 1000, target=1000, capacity=1100) == {(0, 100)}
    assert method.changes_density
    assert (method.max_density(0.1), method.max_density(0.9)) == (0.125, 1.0)


def test_a_soft_bound_to_the_end_of_the_run_ends_there():
    assert updates(sx.MEST(mutation=(0.3,), until=(1.0,), update_interval=30, soft=True), 100) == [30, 60, 90, 100]


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"mutation": ()}, "mutation as shares .* one at least, got "),
        ({"mutation": (0.2, 1.2)}, r"mutation as shares in \[0, 1\].* got \(0.2, 1.2\)"),
        ({"until": (0.5,)}, r"until as ascending shares in \(0, 1\], one for each of the 2 of mutation, got \(0.5,\)"),
        ({"until": (0.5, 0.4)}, r"until .* got \(0.5, 0.4\)"),
        ({"until": (0.0, 0.4)}, r"until .* got \(0.0, 0.4\)"),
        ({"until": (0.4, 1.1)}, r"until .* got \(0.4, 1.1\)"),
        ({"until": (0.4, math.nan)}, r"until .* got \(0.4, nan\)"),
        ({"update_interval": 0}, "update_interval of at least 1, got 0"),
        ({"gradient_weight": -1.0}, "gradient_weight of at least 0, got -1.0"),
        ({"gradient_weight": math.inf}, "finite gradient_weight .* got inf"),
    ],
    ids=str,
)
def test_wrong_choices_are_refused(choices, sentence):
    with pytest.raises(ValueError, match=sentence):
        sx.MEST(**choices)


def test_lists_are_taken():
    assert sx.MEST(mutation=[0.2], until=[0.5]) == sx.MEST(mutation=(0.2,), until=(0.5,))
    hash(sx.MEST(mutation=[0.2], until=[0.5]))


# ---- in training ---------------------------------------------------------------------------------------------------------

SEED = 3  # with which the first two updates grow none of the positions 0, 1, 4 and 5: what was dropped is gone
EVERY_STEP = {"mutation": (0.25,), "until": (1.0,), "update_interval": 1}


class Scaling(torch.optim.SGD):
    """Divides by the scale that a GradScaler gives it, and leaves the gradients as they are."""

    def __init__(self, params, lr):
        super().__init__(params, lr)
        self._step_supports_amp_scaling = True

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad / getattr(self, "grad_scale", 1.0), alpha=group["lr"])


OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.0),
    "fused sgd": lambda params: torch.optim.SGD(params, lr=0.0, fused=True),
    "fused adamw": lambda params: torch.optim.AdamW(params, lr=0.0, fused=True),
    "leaves the scale": lambda params: Scaling(params, lr=0.0),
}


def single(optimizer="sgd", dtype=torch.float32, method=None, **choices):
    """4 entries, of which each step replaces the one of smallest |w| + |g| / 2."""
    layer = sx.SparseLinear(4, 2, bias=False, sparsity=0.5, dtype=dtype)
    layer.set_matrix_(torch.tensor([[1.0, 2.0, 0, 0], [3.0, 4.0, 0, 0]]), torch.tensor([[1, 1, 0, 0]] * 2).bool())
    optimizer = OPTIMIZERS[optimizer](layer.parameters())
    method = sx.MEST(**EVERY_STEP) if method is None else method
    choices = {"seed": SEED} | choices
    return layer, optimizer, sx.Sparsifier(nn.Sequential(layer), optimizer, method, total_steps=100, **choices)


def push(layer, gradient, scaler=None):
    """Its rows: at the entries 0, 1, 4, 5."""
    dense = torch.tensor([[gradient[0], gradient[1], 9.0, 9.0], [gradient[2], gradient[3], 9.0, 9.0]], dtype=layer.weight.dtype)
    loss = (layer(torch.eye(4, dtype=layer.weight.dtype)) * dense.t()).sum()
    (loss if scaler is None else scaler.scale(loss)).backward()


def left(layer):
    """The values that stayed."""
    return sorted(value for value in layer.dense_weight().flatten().tolist() if value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_small_weight_with_a_large_gradient_stays(dtype):
    """|w| + |g| / 2 is 1 + 2, 2 + 0.5, 3 + 0, 4 + 0."""
    layer, optimizer, sparsifier = single(dtype=dtype)
    push(layer, [-4.0, 1.0, 0.0, 0.0])
    optimizer.step()
    assert sparsifier.step()
    assert left(layer) == [1.0, 3.0, 4.0]
    assert layer.nnz == 4


@pytest.mark.parametrize("scale", [2.0**-14, 1.0, 2.0**14])
@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_loss_scale_changes_nothing(optimizer, attached, scale):
    """Whoever removes it from the gradients, if anyone. |w| + |g| / 2 is 1 + 0.2, 2 + 0.15, 3 and 4: the first goes."""
    layer, optimizer, sparsifier = single(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    if attached:
        sparsifier.attach()
    push(layer, [0.4, 0.3, 0.0, 0.0], scaler)
    scaler.step(optimizer)
    assert attached or sparsifier.step()
    assert left(layer) == [2.0, 3.0, 4.0]
    scaler.update()
    optimizer.zero_grad()
    push(layer, [0.0, 0.0, 0.0, 0.0], scaler)  # nothing shows whether they are scaled, and nothing depends on it
    scaler.step(optimizer)
    assert attached or sparsifier.step()
    assert layer.nnz == 4


def test_the_scale_of_one_step_is_not_that_of_the_next():
    layer, optimizer, sparsifier = single("leaves the scale", method=sx.MEST(**{**EVERY_STEP, "update_interval": 2}))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    push(layer, [0.0, 0.0, 0.0, 1.0], scaler)
    scaler.step(optimizer)
    sparsifier.step()
    optimizer.zero_grad()
    push(layer, [3.0, 0.5, 0.0, 0.0])
    optimizer.step()
    assert sparsifier.step()
    assert left(layer) == [1.0, 3.0, 4.0]


def test_a_gradient_that_is_not_finite_postpones_the_update():
    layer, optimizer, sparsifier = single(method=sx.MEST(**{**EVERY_STEP, "update_interval": 3}))
    changes = []
    for step in range(1, 8):
        push(layer, [math.inf if step in (3, 4) else 1.0] * 4)
        if step not in (3, 4):
            optimizer.step()
        changes.append(sparsifier.step())
        optimizer.zero_grad()
    assert changes == [False, False, False, False, True, True, False]


def test_no_dense_gradient_is_computed_even_after_a_postponed_update():
    layer, optimizer, sparsifier = single()
    static = single(method=sx.Static())[0]
    for value in (1.0, math.inf, 1.0, 1.0):
        flops = sx.count_flops(lambda: push(layer, [value] * 4))  # noqa: B023
        assert flops == sx.count_flops(lambda: push(static, [1.0] * 4))
        assert layer.watched is None
        optimizer.step()
        sparsifier.step()
        optimizer.zero_grad()


def test_gradients_that_are_gone_are_missed_and_those_that_never_came_are_not():
    layer, optimizer, sparsifier = single()
    for _ in range(2):  # said once
        push(layer, [1.0] * 4)
        optimizer.step()
        optimizer.zero_grad()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            assert not sparsifier.step()
        assert [("before optimizer.zero_grad()" in str(one.message)) for one in said] == ([True] if _ == 0 else [])
    assert left(layer) == [1.0, 2.0, 3.0, 4.0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer, optimizer, sparsifier = single()
        optimizer.param_groups[0]["lr"] = 0.1
        optimizer.step()  # this layer got none
        assert not sparsifier.step()


class Discarding(torch.optim.SGD):
    """Leaves no gradients."""

    def step(self, closure=None):
        super().step(closure)
        self.zero_grad()


def test_an_optimizer_that_leaves_no_gradients_is_noticed():
    layer, *_ = single()
    optimizer = Discarding(layer.parameters(), lr=0.1)
    sparsifier = sx.Sparsifier(nn.Sequential(layer), optimizer, sx.MEST(**EVERY_STEP), total_steps=100)
    push(layer, [1.0] * 4)
    optimizer.step()
    with pytest.warns(UserWarning, match=r"expected weight\.grad as the optimizer's step has left it, got None"):
        assert not sparsifier.step()


def test_replacing_the_step_is_refused():
    with pytest.raises(ValueError, match=r"MEST ranks weights by the gradients .*: expected replace_step=False, got True"):
        single(replace_step=True)


@pytest.mark.parametrize("layout", ["csr", "auto"])
def test_a_soft_bound_in_training_ends_at_the_target(layout):
    torch.manual_seed(0)
    method = sx.MEST(mutation=(0.5, 0.25), until=(0.5, 0.7), update_interval=4, soft=True)
    model = sx.sparsify_(nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10)), 0.8, layout=layout, method=method)
    optimizer = torch.optim.AdamW(model.parameters())
    sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=40)
    layer, history = model[0], []
    target, addresses = layer.nnz, (layer.weight.data_ptr(), layer.weight.shape)
    for _ in range(40):
        model(torch.randn(9, 20)).square().mean().backward()
        optimizer.step()
        sparsifier.step()
        optimizer.zero_grad()
        history.append(layer.nnz)
    half, quarter = target + target // 2, target + target // 4
    assert history == 3 * [target] + 16 * [half] + 8 * [quarter] + 13 * [target]
    assert addresses == (layer.weight.data_ptr(), layer.weight.shape)

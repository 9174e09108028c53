"""What holds of every method on every layout that it trains: compiled code, autocast, and no hidden dependence."""

import pytest
import torch
from torch import nn
from training import ACTING, OPTIMIZERS, assert_same, batch, everything, masks, method_named, mlp, run

import sparse_ext as sx
from sparse_ext.nn import sparse_layers

# A short run with an update every second step, so that all phases of a schedule come.
TOTAL = 12
CHOICES = {"update_interval": 2, "refresh_interval": 2, "drop_fraction": 0.4, "t_end": 1.0}


def trainer(method, layout, wrap=lambda model: model, **options):
    model = mlp(layout=layout, method=method, **options)
    # Compiled, AdamW corrects its bias in float32.
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    return wrap(model), optimizer, sx.Sparsifier(model, optimizer, method_named(method, **CHOICES), total_steps=TOTAL)


def patterns_of(trio):
    """The masks after every step, and the report."""
    found = []
    for step in range(1, TOTAL + 1):
        changed = run(*trio, range(step, step + 1))
        found.append((changed, [mask.tolist() for mask in masks(trio[0]).values()]))
    return found


@pytest.mark.parametrize(
    ("method", "layout"), [pytest.param(*how, marks=[pytest.mark.slow][: how[1] not in ("csr", "2:4")]) for how in ACTING]
)
def test_compiled_training_is_eager_training(method, layout):
    """In one graph, also behind a change of the layout. float64: the compiler may add in another order."""
    torch._dynamo.reset()
    eager = trainer(method, layout, dtype=torch.float64)
    compiled = trainer(
        method, layout, lambda model: torch.compile(model, fullgraph=True, backend="aot_eager"), dtype=torch.float64
    )
    expected = patterns_of(eager)
    assert [(changed, its) for changed, its in patterns_of(compiled)] == expected
    assert eager[2].report().updates == compiled[2].report().updates >= 2
    inner = compiled[0]._orig_mod
    for key, value in everything(eager[0], eager[1]).items():
        torch.testing.assert_close(everything(inner, compiled[1])[key], value)


@pytest.mark.parametrize(("method", "layout"), ACTING)
def test_training_under_autocast(method, layout):
    """Weights, gradients and state stay in float32, and the loss falls; a step that is not finite leaves all as it is."""
    model, optimizer, sparsifier = trainer(method, layout)
    x, y = batch(1, size=64)
    losses = []
    for _ in range(TOTAL):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model(x)
            assert out.dtype == torch.bfloat16
            loss = nn.functional.cross_entropy(out.float(), y)
        loss.backward()
        optimizer.step()
        sparsifier.step()
        for layer in sparse_layers(model).values():
            held = [layer.weight, layer.weight.grad, optimizer.state[layer.weight]["momentum_buffer"]]
            assert {tensor.dtype for tensor in held} == {torch.float32}
            assert {tensor.shape for tensor in held} == {(layer.capacity,)}
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert sparsifier.report().updates >= 2


@pytest.mark.parametrize(("method", "layout"), ACTING)
def test_the_same_run_twice(method, layout):
    """No choice depends on what happened before in the process."""
    results = []
    for noise in (0, 7):
        trio = trainer(method, layout)
        for _ in range(TOTAL):
            torch.rand(noise)
            run(*trio, range(1, 2))
        results.append(everything(*trio[:2]) | {"report": str(trio[2].report())})
    assert_same(*results)

"""SNFS, MEST and unfired_first by compiled code, and under autocast with a loss scale."""

import exchange
import pytest
import torch
from torch import nn
from training import assert_same, batch, masks

import sparse_ext as sx
from sparse_ext.nn import sparse_layers


@pytest.mark.parametrize("method", exchange.METHODS)
def test_a_compiled_model_trains_as_the_eager_one_does(method):
    torch._dynamo.reset()
    eager, compiled = (
        exchange.history(method, wrap, lambda whole: whole)
        for wrap in (lambda model: model, lambda model: torch.compile(model, fullgraph=True, backend="aot_eager"))
    )
    assert compiled == eager
    assert len({str(pattern) for pattern in eager}) > 3


def test_a_compiled_step_calls_the_sparsifier_outside():
    """And the hooks that look at gradients before and after the optimizer's step."""
    results = []
    for compiled in (False, True):
        torch._dynamo.reset()
        model = exchange.build("mest")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        sparsifier = sx.Sparsifier(model, optimizer, exchange.METHODS["mest"], total_steps=13)

        def step(x, model=model, optimizer=optimizer, sparsifier=sparsifier):
            model(x).square().sum().backward()
            optimizer.step()
            changed = sparsifier.step()
            optimizer.zero_grad()
            return changed

        run_step = torch.compile(step, backend="eager") if compiled else step
        changed = [run_step(batch(number, dtype=torch.float64)[0]) for number in range(1, 5)]
        assert changed == [False, False, True, False]
        results.append(masks(model))
    assert_same(*results)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("method", exchange.METHODS)
def test_autocast_and_a_loss_scale(method, fused):
    """The scale, a power of 2, changes nothing, bit for bit."""
    outcomes = []
    for scale in (1.0, 2.0**12):
        model = exchange.build(method, torch.float32)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused)
        sparsifier = sx.Sparsifier(model, optimizer, exchange.METHODS[method], total_steps=13)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        total, changes = sum(layer.nnz for layer in sparse_layers(model).values()), 0
        for step in range(1, 14):
            x, y = batch(step)
            with torch.autocast("cpu", torch.bfloat16):
                loss = nn.functional.cross_entropy(model(x).float(), y)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            changes += sparsifier.step()
            optimizer.zero_grad(set_to_none=True)
        assert changes >= 3
        assert loss.isfinite()
        assert sum(layer.nnz for layer in sparse_layers(model).values()) == total
        outcomes.append(masks(model))
    assert_same(*outcomes)

"""Training by compiled code: a compiled model, a compiled step with the Sparsifier in it, and their states."""

import pytest
import torch
from training import KINDS, assert_same, everything, masks, mlp, rigl, run


def trainer(model, kind="adamw"):
    return model, *rigl(model, kind)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_model_trains_as_the_eager_one_does(kind, backend):
    """float64: the compiler may add in another order, and that must not decide a pattern."""
    torch._dynamo.reset()
    eager = mlp(dtype=torch.float64, kind=kind)
    twin = mlp(dtype=torch.float64, kind=kind)
    compiled = torch.compile(twin, fullgraph=True, backend=backend)
    trainers = [trainer(eager), trainer(compiled)]
    for steps in (range(s, s + 1) for s in range(1, 14)):
        changed = {run(*trio, steps) for trio in trainers}
        assert len(changed) == 1
        assert_same(masks(twin), masks(eager))
    for key, value in everything(eager, trainers[0][1]).items():
        torch.testing.assert_close(everything(twin, trainers[1][1])[key], value)
    assert trainers[0][2].report().updates == 4


@pytest.mark.slow
def test_a_compiled_training_step_is_the_eager_one():
    """All of it in one function; the Sparsifier's step runs outside of the compiled code."""
    results = []
    for compiled in (False, True):
        torch._dynamo.reset()
        model = mlp(dtype=torch.float64)
        _, optimizer, sparsifier = trainer(model, "sgd")  # compiled, AdamW corrects its bias in float32

        def step(x, model=model, optimizer=optimizer, sparsifier=sparsifier):
            model(x).square().sum().backward()
            optimizer.step()
            changed = sparsifier.step()
            optimizer.zero_grad()
            return changed

        run_step = torch.compile(step, backend="eager") if compiled else step
        generator = torch.Generator().manual_seed(3)
        x = torch.randn(10, 4, model[0].product.cols, generator=generator, dtype=torch.float64)
        changed = [run_step(one) for one in x]
        assert any(changed)
        results.append((changed, masks(model), model.state_dict()))
    (eager_changed, eager_masks, eager), (changed, compiled_masks, of_compiled) = results
    assert changed == eager_changed
    assert_same(compiled_masks, eager_masks)
    torch.testing.assert_close(of_compiled, eager)


def test_a_compiled_models_state_loads_into_the_plain_one():
    plain, _, sparsifier = trainer(mlp())
    _, _, of_compiled = trainer(torch.compile(mlp(), backend="eager"))
    sparsifier.load_state_dict(of_compiled.state_dict())
    of_compiled.load_state_dict(sparsifier.state_dict())
    assert list(masks(plain)) == ["0", "2"]

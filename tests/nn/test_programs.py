"""Programs that were compiled, exported or traced multiply what their buffers say when they run."""

import copy

import pytest
import torch
from exchanges import CLOSE, LAYERS, WITH_BUFFERS, X, assert_same, give, made, outcome, put
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx


@pytest.mark.parametrize("layer", LAYERS)
def test_a_compiled_layer_takes_other_tensors(layer):
    torch._dynamo.reset()
    layer, others = made(layer), [made(layer) for _ in range(3)]
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    outcome(layer, compiled)
    for other in (*others, others[0]):
        give(layer, other, put)
        assert_same(outcome(layer, compiled), outcome(other))
        assert_same(outcome(layer), outcome(other))


@pytest.mark.parametrize("layer", LAYERS)
def test_a_compiled_functional_call(layer):
    torch._dynamo.reset()
    base, models = made(layer), [made(layer) for _ in range(3)]
    own = copy.deepcopy(base)
    compiled = torch.compile(lambda state, x: functional_call(base, state, (x,)), backend="aot_eager", fullgraph=True)
    for model in (*models, models[0]):
        state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        assert_same(outcome(model, lambda x, state=state: compiled(state, x)), outcome(model))
        assert_same(outcome(base), outcome(own))


def exported(layer):
    return torch.export.export(layer, (X,)).module()


def strictly_exported(layer):
    return torch.export.export(layer, (X,), strict=True).module()


def traced(layer):
    return torch.jit.trace(layer, X)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("program", [exported, pytest.param(strictly_exported, marks=pytest.mark.slow), traced])
@pytest.mark.parametrize("layer", WITH_BUFFERS)
def test_a_program_multiplies_what_is_loaded_into_it(layer, program):
    layer, other = made(layer), made(layer)
    with torch.no_grad():
        run = program(layer)
        torch.testing.assert_close(run(X), layer(X), **CLOSE)
        run.load_state_dict(other.state_dict())
        torch.testing.assert_close(run(X), other(X), **CLOSE)


@pytest.mark.parametrize("mode", ["real", "fake"])
@pytest.mark.parametrize("layer", WITH_BUFFERS)
def test_a_recorded_program_multiplies_the_state_that_it_is_given(layer, mode):
    layer, other = made(layer), made(layer)

    def call(state, x):
        return functional_call(layer, state, (x,))

    with torch.no_grad():
        program = make_fx(call, tracing_mode=mode)(layer.state_dict(), X)
        for one in (layer, other):
            torch.testing.assert_close(program(one.state_dict(), X), one(X), **CLOSE)


@pytest.mark.parametrize("program", [exported, pytest.param(strictly_exported, marks=pytest.mark.slow)])
def test_a_program_refuses_another_rule(program):
    layer, other = made("2:4 dense weight"), made("2:4 dense weight")
    with torch.no_grad():
        run = program(layer)
        run.load_state_dict(other.state_dict())
        torch.testing.assert_close(run(X), other(X), **CLOSE)
        other.choose_("transposable")
        run.load_state_dict(other.state_dict())
        with pytest.raises(RuntimeError, match="expected the rule that chose the positions of a dense weight"):
            run(X)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_rule_is_not_traced():
    with pytest.raises(RuntimeError, match=r"torch.jit.trace: expected a packed weight, .*use torch.export"):
        traced(made("2:4 dense weight"))

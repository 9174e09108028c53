"""estimate: bytes against measured runs, FLOPs against count_flops, communication and what methods keep by hand."""

import functools
import time

import pytest
import torch
from torch import nn

import sparse_ext as sx
from sparse_ext.forecast.models import GPT
from sparse_ext.forecast.optimizer import OPTIMIZERS, kind_of, state_of
from sparse_ext.memory import _moments, _recorded, bytes_of, state_tensors, step_memory

MODELS = {
    "linear": (lambda: [nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 20, bias=False)], (8, 96)),
    "conv": (lambda: [nn.Conv2d(4, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 8, 1)], (4, 4, 8, 8)),
}
MAKERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "adamw": torch.optim.AdamW,
}
KEPT = ("weights", "indices", "gradients", "optimizer_state")


def made(kind):
    torch.manual_seed(0)
    layers, shape = MODELS[kind]
    return nn.Sequential(*layers()), torch.randn(shape)


def three():
    """Layers 20 x 10, 10 x 20 and 8 x 10, without bias."""
    return nn.Sequential(nn.Linear(10, 20, bias=False), nn.Linear(20, 10, bias=False), nn.Linear(10, 8, bias=False))


# ---- bytes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", MAKERS)
@pytest.mark.parametrize("layout", [None, "csr", "2:4", "auto"])
@pytest.mark.parametrize("kind", MODELS)
def test_bytes_are_those_of_a_measured_run(kind, layout, optimizer):
    """To the byte. Without a layout the dense side is compared."""
    model, x = made(kind)
    choices = {"sparsity": None if layout == "2:4" else 0.9, "layout": layout or "csr", "distribution": "uniform"}
    found = sx.estimate(model, optimizer=MAKERS[optimizer], inputs=x, **choices).model
    side = found.dense if layout is None else found.sparse
    if layout is not None:
        sx.sparsify_(model, **choices)
    trains = MAKERS[optimizer](model.parameters())
    measured = step_memory(lambda: (model(x).square().mean().backward(), trains.step()), model, trains)
    assert {name: getattr(side.bytes, name) for name in KEPT} == {name: getattr(measured, name) for name in KEPT}


@pytest.mark.parametrize("name", ["rigl", "gmp", "ac/dc", "srigl", "fst", "top-kast", "snfs"])
def test_bytes_are_those_that_a_sparsifier_trains(name):
    """Of capacities, dense weights and fan-ins, which a method asks for."""
    layout, method = ("2:4", sx.METHODS[name]()) if name == "fst" else ("csr", sx.METHODS[name]())
    model, x = made("linear")
    found = sx.estimate(model, None if layout == "2:4" else 0.8, layout, method, inputs=x).model.sparse.bytes
    sx.sparsify_(model, None if layout == "2:4" else 0.8, layout=layout, method=method)
    optimizer = torch.optim.AdamW(model.parameters())
    _sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=10_000)
    measured = step_memory(lambda: (model(x).square().mean().backward(), optimizer.step()), model, optimizer)
    assert {one: getattr(found, one) for one in KEPT} == {one: getattr(measured, one) for one in KEPT}


STEPLESS = {"lbfgs": "missing 1 required positional argument: 'closure'", "sparseadam": "does not support dense gradients"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_is_what_the_optimizer_makes(name):
    shapes = [(6, 7), (7, 6)] if name == "muon" else [(6, 7), (7,), (300,), (1,)]
    parameters = [nn.Parameter(torch.ones(shape, device="meta")) for shape in shapes]
    state, why = state_of(name, parameters)
    if name in STEPLESS:
        assert state is None
        assert STEPLESS[name] in why
        return
    assert why is None
    for parameter in parameters:
        real = nn.Parameter(torch.ones(parameter.shape))
        optimizer = OPTIMIZERS[name]([real])
        real.grad = torch.ones_like(real)
        optimizer.step()
        assert state.each[kind_of(parameter)] == bytes_of(state_tensors(optimizer, [real]))


@pytest.mark.parametrize(
    "optimizer",
    [
        "adamw",
        torch.optim.AdamW,
        torch.optim.AdamW([nn.Parameter(torch.ones(1))], fused=True),
        functools.partial(torch.optim.Adam),
    ],
    ids=["name", "class", "instance", "function"],
)
def test_an_optimizer_is_given_in_any_way(optimizer):
    """Two moments, and a number for each weight."""
    found = sx.estimate(three(), 0.5, "csr", optimizer=optimizer, tokens=1, distribution="uniform").model
    assert found.dense.bytes.optimizer_state == 8 * 480 + 3 * 4
    assert found.sparse.bytes.optimizer_state == 8 * 240 + 3 * 4


def test_an_unknown_state_is_none_with_a_sentence():
    class Secret(torch.optim.SGD):
        def step(self, closure=None):
            torch.nonzero(self.param_groups[0]["params"][0])
            super().step()

    found = sx.estimate(three(), 0.5, "csr", "static", Secret, 1)
    assert found.model.dense.bytes.optimizer_state is found.model.sparse.bytes.total is None
    assert any("optimizer state is unknown: Secret makes no step without values" in one for one in found.notes)
    assert "Unknown: bytes" in found.conclusion
    assert "unknown" in str(found)


def test_what_is_no_layers_is_in_a_row_of_its_own():
    """Weights that modules share count once."""
    model = nn.ModuleDict({"embedding": nn.Embedding(50, 8), "norm": nn.LayerNorm(8), "head": nn.Linear(8, 50, bias=False)})
    model["other"] = nn.Linear(8, 8)
    model["head"].weight = model["embedding"].weight
    with pytest.warns(UserWarning, match="'head' stays dense: its weight is tied"):
        found = sx.estimate(model, 0.5, "csr", optimizer="sgd", tokens=3)
    bytes_of_row = {row.name: row.sparse.bytes.weights for row in found.layers}
    assert bytes_of_row == {"head": 0, "other": 4 * (32 + 8), "other parameters": 4 * (400 + 16)}


# ---- what methods keep, and send -----------------------------------------------------------------------------------


BITS = 25 + 25 + 10  # of positions that were ever in use: 200, 200 and 80
NNZ = 4 * (100 + 100 + 40)
RIGL = {"update_interval": 100, "t_end": 1.0, "schedule": "constant"}
# (method, ranks, bytes that it keeps, bytes that a rank sends for an update)
KEEPING = {
    "static": (sx.Static(), 4, BITS, 0),
    "streamed": (sx.RigL(**RIGL), 1, BITS, 0),
    "summed over ranks": (sx.RigL(**RIGL), 4, BITS + 4 * 480, 1.5 * 4 * 480),
    "two steps": (sx.RigL(**RIGL, gradient_steps=2), 4, BITS + 4 * 480, 2 * 1.5 * 4 * 480),
    "two steps of one rank": (sx.RigL(**RIGL, gradient_steps=2), 1, BITS + 4 * 480, 0),
    "momentum": (sx.SNFS(update_interval=5, redistribute=False), 2, BITS + 2 * 4 * 480, 5 * 4 * 480),
    "signs and magnitudes": (sx.ESTDGM(gradient_steps=3), 1, BITS + 3 * 4 * 480, 0),
    "importance": (sx.Together(sx.RigL(**RIGL), sx.SAT()), 1, BITS + NNZ + NNZ // 4, 0),
}


@pytest.mark.parametrize("name", KEEPING)
def test_what_a_method_keeps_and_sends_by_hand(name):
    method, ranks, kept, sent = KEEPING[name]
    found = sx.estimate(three(), 0.5, "csr", method, "sgd", 1, ranks, total_steps=1000, distribution="uniform").model
    assert found.sparse.bytes.method == kept
    assert found.sparse.communication.update == pytest.approx(sent)
    ring = 2 * (ranks - 1) / ranks
    assert found.dense.communication.step == ring * 4 * 480
    assert found.sparse.communication.step == ring * found.sparse.bytes.gradients
    assert found.dense.bytes.method == found.dense.communication.update == 0


# ---- FLOPs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", [name for name, method in sx.METHODS.items() if method.__module__.startswith("sparse_ext.")])
def test_flops_are_those_that_count_flops_plans(kind, name):
    method = sx.METHODS[name]()
    layout = "2:4" if name in ("fst", "sr-ste", "s-ste") else "csr"
    choices = {"sparsity": None if layout == "2:4" else 0.8, "layout": layout}
    model, x = made(kind)
    found = sx.estimate(model, **choices, method=method, inputs=x, total_steps=1000)
    sx.sparsify_(model, **choices, method=method)
    optimizer = torch.optim.AdamW(model.parameters())
    counted = sx.count_flops(model, sx.Sparsifier(model, optimizer, method, total_steps=1000), x)
    rows = {row.name: row for row in found.layers}
    for row in counted.layers:
        one = rows[row.name]
        assert (one.tokens, one.density) == (row.tokens, row.density.planned)
        assert (one.sparse.flops.forward, one.sparse.flops.training) == (row.forward.planned, row.training.planned)
        assert (one.dense.flops.forward, one.dense.flops.training) == (row.dense_forward, row.dense_training)
    assert found.model.sparse.flops.training == counted.model.training.planned


def test_an_observing_step_by_hand():
    """Half of the forward product and of the input gradient, and all of the weight gradient."""
    found = sx.estimate(three(), 0.5, "csr", sx.RigL(**RIGL), tokens=7, distribution="uniform", total_steps=1000)
    assert found.model.dense.flops.observing == found.model.dense.flops.training == 6 * 7 * 480
    assert found.model.sparse.flops.observing == 2 * 7 * (240 + 240 + 480)
    assert found.model.sparse.flops.forward == 2 * 7 * 240
    static = sx.estimate(three(), 0.5, "csr", tokens=7, distribution="uniform").model.sparse.flops
    assert static.observing == static.training == 6 * 7 * 240


def test_sat_leaves_a_model_dense_where_there_is_no_sparsity():
    """10,000 steps, an update after every 500: all train until the first and when they are scored, otherwise three tenths."""
    found = sx.estimate(three(), method="sat", optimizer="sgd", tokens=1)
    assert all(row.layout is None for row in found.layers)
    assert found.model.sparse.flops.training == pytest.approx(2 * 480 * (2 + (519 + 0.3 * 9481) / 10_000), rel=1e-3)
    assert found.model.speed.step is None


# ---- models of any size ---------------------------------------------------------------------------------------------


def test_a_model_of_65_billion_parameters_is_planned_in_seconds_and_without_memory():
    with torch.device("meta"):
        model, batch = GPT(8192, 80, 64, 32000, 2048).build()
    found = []
    begin = time.process_time()
    events, _ = _recorded(
        lambda: found.append(sx.estimate(model, 0.9, "csr", sx.RigL(), inputs=batch, ranks=64)), torch.device("cpu")
    )
    assert time.process_time() - begin < 20
    assert max(moment.all for moment in _moments(events, [])) < 1 << 20
    (estimate,) = found
    assert 64e9 < estimate.model.dense.bytes.weights / 4 < 66e9
    assert estimate.model.sparse.bytes.optimizer_state < 0.11 * estimate.model.dense.bytes.optimizer_state
    assert len(str(estimate).splitlines()) < 40  # blocks share their lines


def test_the_model_stays_as_it_is():
    model = three()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sx.estimate(model, 0.5, inputs=torch.randn(3, 10))
    assert [type(layer) for layer in model] == 3 * [nn.Linear]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


# ---- what is refused ------------------------------------------------------------------------------------------------


class Lengths(nn.Module):
    """Reads a number from its input."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x[: int(x.sum())])


class Unused(Lengths):
    def forward(self, x):
        return x


def frozen():
    return three().requires_grad_(False)


def takes(*layers):
    return lambda: nn.Sequential(*layers)


COUNTED = {"tokens": 1}
# {what: (arguments, keywords, sentence)}; the first argument makes the model.
REFUSED = {
    "sparsity": ((three, 1.5), COUNTED, r"expected sparsity in \[0, 1\), got 1.5"),
    "layout": ((three, 0.5, "coo"), COUNTED, "expected layout to be one of 'csr', .*, got 'coo'"),
    "2:4": ((three, 0.9, "2:4"), COUNTED, "expected sparsity 0.5"),
    "method": ((three, 0.5, "csr", "lottery"), COUNTED, "expected method to be one of 'static', .*, got 'lottery'"),
    "method's type": ((three, 0.5, "csr", sx.RigL), COUNTED, "expected a method such as RigL"),
    "method and layout": ((three, None, "2:4", sx.GMP()), COUNTED, "expected sparsity 0.5"),
    "optimizer": ((three, 0.5, "csr", None, "adan"), COUNTED, "optimizer to be one of 'asgd', .*, got 'adan'"),
    "optimizer's type": ((three, 0.5, "csr", None, 3), COUNTED, "optimizer as a name, a class or an instance, got int"),
    "options": ((three, 0.5, "csr", None, functools.partial(torch.optim.SGD, lr=-1)), COUNTED, "got SGD, which says: Inv"),
    "no follower": ((three, 0.5, "csr", "rigl", torch.optim.LBFGS), COUNTED, "expected an optimizer whose state has one"),
    "tokens": ((three, 0.5), {"tokens": 0}, "expected tokens to be a whole number of at least 1, got 0"),
    "ranks": ((three, 0.5), {"tokens": 1, "ranks": 0}, "expected ranks to be a whole number of at least 1, got 0"),
    "total_steps": ((three, 0.5), {"tokens": 1, "total_steps": 0.5}, "expected total_steps to be a whole number"),
    "neither": ((three, 0.5), {}, "expected tokens or inputs, got neither"),
    "both": ((three, 0.5), {"tokens": 1, "inputs": torch.ones(1, 10)}, "expected tokens or inputs, got both"),
    "inputs": ((three, 0.5), {"inputs": 3}, "expected inputs as a tensor, a tuple or a mapping, got int"),
    "shape": ((three, 0.5), {"inputs": torch.ones(1, 9)}, "inputs that the model takes on the device 'meta', got Runtime"),
    "values": ((Lengths, 0.5), {"inputs": torch.ones(4, 4)}, "got RuntimeError: .*; a model of linear layers can be"),
    "reach": ((Unused, 0.5), {"inputs": torch.ones(4, 4)}, "inputs whose forward pass reaches the model's layers"),
    "model": ((lambda: 3, 0.5), COUNTED, "expected a model, got int"),
    "sparse": ((takes(sx.SparseLinear(4, 4)), 0.5), COUNTED, r"expected a dense model, got sparse layers \(0\)"),
    "lazy": ((takes(nn.LazyLinear(4)), 0.5), COUNTED, "expected weights with shapes, got lazy ones"),
    "frozen": ((frozen, 0.5), COUNTED, "expected a model with parameters to train, got one without any"),
    "conv": ((takes(nn.Conv2d(3, 4, 3)), 0.5), {"tokens": 5}, r"a model with convolutions \(0\).*got tokens=5"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    (model, *arguments), keywords, sentence = REFUSED[name]
    with pytest.raises((TypeError, ValueError), match=sentence):
        sx.estimate(model(), *arguments, **keywords)


def test_the_models_density_is_that_of_all_positions():
    """100 positions of 16 pixels each at density 1, and 400 of one token at 0.25: 200 of 500, whatever they compute."""
    model = nn.Sequential(nn.Conv2d(4, 25, 1, bias=False), nn.AdaptiveAvgPool2d((1, 16)), nn.Flatten(), nn.Linear(400, 1))
    found = sx.estimate(model, 0.75, "csr", inputs=torch.ones(1, 4, 4, 4), exclude=["0"], distribution="uniform")
    assert found.model.density == pytest.approx(0.4)

"""The storage of a layer that was asked for as "auto" follows its density, and all that belongs to the weight with it."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from training import (
    KINDS,
    OPTIMIZERS,
    assert_same,
    backward,
    batch,
    everything,
    method_named,
    mlp,
    positions,
    run,
    slots,
    spread,
    train,
)

import sparse_ext as sx
from sparse_ext.methods import Time
from sparse_ext.nn import sparse_layers
from sparse_ext.ops import auto
from sparse_ext.ops.csr import auto_conv

METHODS = [name for name, kind in sx.METHODS.items() if kind.changes_density]
TOTAL = 30
CHOICES = {"update_interval": 3, "drop_fraction": 0.3, "t_end": 25, "gradient_steps": 2, "cycles": 2}


@pytest.fixture(autouse=True)
def from_60_percent(monkeypatch):
    """Measured: sparse storage is faster from 60 % zeros on, whatever is multiplied."""
    kernels = ((1, 4), (1, 2), (2, 2), (3, 1))
    names = (auto.STORAGE, *(name for kernel in kernels for name in auto_conv.all_in_table(kernel)))
    device, rows = auto.device_name(torch.device("cpu")), (auto.Row(16, 240, 0, 0.4),)
    monkeypatch.setattr(auto.POLICY, "table", {(device, torch.float32, name): rows for name in names})


def build(method, seed=0, optimizer="adamw", layout="auto", kind="linear", **choices):
    model = mlp(seed, layout=layout, method=method, kind=kind)
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    chosen = method_named(method, **(CHOICES | choices))
    return model, optimizer, sx.Sparsifier(model, optimizer, chosen, total_steps=TOTAL, seed=seed)


def stored(model):
    return [(layer.layout, layer.capacity) for layer in sparse_layers(model).values()]


def held(model, optimizer):
    """All that has one value for each position, as flat matrices."""
    return [
        {name: spread(layer, value) for name, value in slots(layer, optimizer).items()}
        for layer in sparse_layers(model).values()
    ]


# ---- what is stored how ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_the_table_is_asked_at_every_change_of_density(method):
    model, optimizer, sparsifier = build(method)
    seen = set()
    for _ in train(model, optimizer, sparsifier, range(1, TOTAL + 1)):
        for layer, row in zip(sparse_layers(model).values(), sparsifier.report().layers, strict=True):
            zeros = 1 - layer.density
            assert layer.layout == row.layout == ("auto" if zeros >= 0.6 else "masked")
            assert row.reason.startswith(f"{zeros:.0%} zeros; sparse storage is faster from 60% on, as measured on cpu")
            full = layer.pattern.rows * layer.pattern.cols
            assert layer.capacity == full if layer.layout == "masked" else layer.nnz <= layer.capacity < 2 * layer.nnz
            lengths = {value.numel() for value in slots(layer, optimizer).values()}
            assert lengths == {layer.capacity}
            seen.add(layer.layout)
        x = batch(0)[0]
        torch.testing.assert_close(model(x), sx.densify_(copy.deepcopy(model))(x))
    assert seen == {"auto", "masked"}
    assert all(layer.nnz == layer.target_nnz for layer in sparse_layers(model).values())


@pytest.mark.parametrize("layout", ["csr", "masked"])
@pytest.mark.parametrize("method", METHODS)
def test_a_layer_that_was_asked_for_a_layout_stays_in_it(method, layout):
    model, optimizer, sparsifier = build(method, layout=layout)
    before = stored(model)
    run(model, optimizer, sparsifier, range(1, TOTAL + 1))
    assert stored(model) == before
    assert {row.reason for row in sparsifier.report().layers} == {"as asked for"}


def test_a_layer_that_the_user_has_switched_stays_so():
    model, optimizer, _ = build("gmp")
    model[0].switch_("csr")
    assert (model[0].asked, model[2].asked) == ("csr", "auto")
    sparsifier = sx.Sparsifier(model, optimizer, method_named("gmp", **CHOICES), total_steps=TOTAL)
    run(model, optimizer, sparsifier, range(1, TOTAL + 1))
    assert [layout for layout, _ in stored(model)] == ["csr", "auto"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_values_gradients_state_and_copies_follow(method, kind, optimizer):
    model, optimizer, sparsifier = build(method, optimizer=optimizer, kind=kind)
    average = AveragedModel(model)
    sparsifier.track(average)
    layers, copies = sparse_layers(model).values(), list(sparse_layers(average).values())
    parameters, layouts = [layer.weight for layer in layers], set()
    for step in range(1, TOTAL + 1):
        backward(model, step)
        optimizer.step()
        before, were = held(model, optimizer), [layer.mask().flatten() for layer in layers]
        averages = [spread(one, one.weight.detach()) for one in copies]
        sparsifier.step()
        layouts |= {layer.layout for layer in layers}
        for n, (layer, now) in enumerate(zip(layers, held(model, optimizer), strict=True)):
            mask, stays = layer.mask().flatten(), were[n] & layer.mask().flatten()
            renewed = method == "ac/dc" and int(mask.sum()) > int(were[n].sum())
            for name, value in now.items():
                expected = before[n][name] * stays
                if renewed and name not in ("weight", "grad"):
                    expected = 0 * expected
                assert torch.equal(value, expected), name
            assert torch.equal(spread(copies[n], copies[n].weight.detach()), averages[n] * stays)
            assert torch.equal(copies[n].mask(), layer.mask())
            assert (copies[n].layout, copies[n].capacity) == (layer.layout, layer.capacity)
            assert not layer.weight[layer.slots() < 0].any()
        average.update_parameters(model)
        optimizer.zero_grad(set_to_none=True)
    assert layouts == {"auto", "masked"}
    assert all(layer.weight is p for layer, p in zip(layers, parameters, strict=True))


# ---- resuming ----------------------------------------------------------------------------------------------------------


def through_a_file(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def outcome(model, optimizer, sparsifier):
    return everything(model, optimizer) | {"report": str(sparsifier.report()).replace("as in the checkpoint", "")}


def switches(method):
    """The steps at which the storage of a layer changes."""
    model, optimizer, sparsifier = build(method)
    before, found = stored(model), []
    for step, _ in train(model, optimizer, sparsifier, range(1, TOTAL + 1)):
        found += [step] if stored(model) != before else []
        before = stored(model)
    return found


def saves(method):
    """Before, at and after the first two switches and the last; and some in between."""
    first, second, *_, last = switches(method)
    return sorted({at + d for at in (first, second, last) for d in (-1, 0, 1)} & set(range(1, TOTAL)) | {1, TOTAL - 2})


@pytest.mark.parametrize("method", METHODS)
def test_a_run_resumes_bit_for_bit_in_every_phase(method):
    """Whatever is loaded first."""
    whole = build(method)
    states, reached = {}, 0
    for step in saves(method):
        run(*whole, range(reached + 1, step + 1))
        states[step], reached = through_a_file([part.state_dict() for part in whole]), step
    run(*whole, range(reached + 1, TOTAL + 1))
    expected = outcome(*whole)
    for step, state in states.items():
        parts = build(method, seed=7)  # another seed: nothing may come from construction
        for n in ((0, 1, 2), (1, 0, 2), (2, 1, 0))[step % 3]:
            parts[n].load_state_dict(copy.deepcopy(state[n]))
        run(*parts, range(step + 1, TOTAL + 1))
        assert_same({**outcome(*parts), "report": ""}, {**expected, "report": ""})
        assert [row.nnz for row in parts[2].report().layers] == [row.nnz for row in whole[2].report().layers]


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_is_loaded_before_its_sparsifier_is_made(method):
    whole = build(method)
    at = switches(method)[-1] + 1
    run(*whole, range(1, at + 1))
    states = through_a_file([part.state_dict() for part in whole])
    run(*whole, range(at + 1, TOTAL + 1))
    model = mlp(7, layout="auto", method=method)
    for layer in sparse_layers(model).values():  # as sparsify_(model, method=...) makes it
        layer.aim_at_(0.3)
    model.load_state_dict(states[0])
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    optimizer.load_state_dict(states[1])
    sparsifier = sx.Sparsifier(model, optimizer, method_named(method, **CHOICES), total_steps=TOTAL)
    sparsifier.load_state_dict(states[2])
    run(model, optimizer, sparsifier, range(at + 1, TOTAL + 1))
    assert_same(everything(model, optimizer), everything(*whole[:2]))


@pytest.mark.parametrize("method", METHODS)
def test_a_state_goes_back_in_time(method):
    parts = build(method)
    first = switches(method)[0]
    run(*parts, range(1, first))
    state = through_a_file([part.state_dict() for part in parts])
    results = []
    for _ in range(2):
        run(*parts, range(first, TOTAL + 1))
        results.append({**outcome(*parts), "report": ""})
        for part, one in zip(parts, copy.deepcopy(state), strict=True):
            part.load_state_dict(one)
    assert_same(*results)


@pytest.mark.parametrize("average_too", [True, False])
def test_a_rollback_of_the_weights_alone(average_too):
    """Back over a switch: gradients, moments and the average follow by position."""
    model, optimizer, sparsifier = build("gmp")
    average = copy.deepcopy(model)
    sparsifier.track(average)
    run(model, optimizer, sparsifier, range(1, 4))
    best, earlier = copy.deepcopy(model.state_dict()), copy.deepcopy(average.state_dict())
    run(model, optimizer, sparsifier, range(4, 27))
    backward(model, 27)
    before, mean = held(model, optimizer), spread(average[0], average[0].weight.detach())
    assert stored(model)[0][0] == "auto"
    if average_too:
        average.load_state_dict(earlier)
    model.load_state_dict(best)
    assert stored(model)[0] == ("masked", 240)
    assert torch.equal(model[0].weight, best["0.weight"])
    for then, now in zip(before, held(model, optimizer), strict=True):
        for name, value in now.items():
            assert name == "weight" or torch.equal(value, then[name]), name
    assert (average[0].layout, average[0].capacity) == ("masked", 240)
    if average_too:
        assert torch.equal(average[0].weight, earlier["0.weight"])
    else:
        assert torch.equal(average[0].weight, mean)
    optimizer.step()
    sparsifier.step()


def test_a_refused_checkpoint_leaves_the_storage():
    donor, _, _ = (parts := build("gmp"))
    run(*parts, range(1, TOTAL + 1))
    model, *_ = build("gmp", seed=1)
    before, values = stored(model), copy.deepcopy(model.state_dict())
    good = donor.state_dict()
    for key, value in (("0.bias", torch.zeros(3)), ("0.col_idx", good["0.col_idx"] + 40), ("0.weight", good["0.weight"][:5])):
        with pytest.raises(RuntimeError, match=key.split(".")[1] if "col" not in key else "pattern"):
            model[0].load_state_dict({name[2:]: tensor for name, tensor in {**good, key: value}.items() if name[0] == "0"})
        assert stored(model) == before
        assert_same(model.state_dict(), values)


# ---- copies and the rest ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_copy_of_everything_trains_on_alike(method):
    parts = build(method)
    run(*parts, range(1, switches(method)[0] + 2))
    twins = copy.deepcopy(parts)
    at = switches(method)[0] + 2
    run(*parts, range(at, TOTAL + 1))
    run(*twins, range(at, TOTAL + 1))
    assert_same(outcome(*twins), outcome(*parts))


def test_what_a_layer_was_asked_for_survives_a_pickle_and_older_ones():
    model, *_ = build("gmp")
    assert [layer.asked for layer in sparse_layers(model).values()] == ["auto", "auto"]
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert torch.load(file, weights_only=False)[0].asked == "auto"
    layer = copy.copy(model[0])
    state = {key: value for key, value in layer.__getstate__().items() if key != "_asked"}
    older = sx.SparseLinear.__new__(sx.SparseLinear)
    older.__setstate__(state)
    assert (older.asked, older.layout) == ("masked", "masked")


def test_sparsify_and_from_dense_remember_what_was_asked_for():
    model = nn.Sequential(nn.Linear(12, 20), nn.Linear(20, 20))
    sx.sparsify_(model, 0.5, distribution="uniform", method=sx.GMP())
    assert [(layer.layout, layer.asked) for layer in model] == [("masked", "auto")] * 2
    assert sx.SparseLinear.from_dense(nn.Linear(12, 20), sparsity=0.5, layout="auto").asked == "auto"


def test_a_growing_layer_gets_room_where_it_has_none():
    """EST-DGM's second cycle: from a short packed weight to full length, by candidates that were kept of the gradient."""
    model, optimizer, sparsifier = build("est-dgm", gradient_steps=1)
    lengths = [model[0].capacity for _ in train(model, optimizer, sparsifier, range(1, TOTAL + 1))]
    at = [step for step in sparsifier.method.begins(TOTAL) if sparsifier.method.density_at(0.3, Time(step, TOTAL)) == 0.65]
    assert at
    assert all(lengths[step - 2] < 156 and lengths[step - 1] == 240 for step in at)
    assert len(positions(model[0])) == 72


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", METHODS)
def test_compiled_code_follows_and_autocast_works(method, dtype):
    plain, compiled = build(method), build(method)
    program = torch.compile(compiled[0], backend="aot_eager")
    for step in range(1, TOTAL + 1):
        x, y = batch(step)
        for (model, optimizer, sparsifier), call in ((plain, plain[0]), (compiled, program)):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
                loss = nn.functional.cross_entropy(call(x).float(), y)
            loss.backward()
            optimizer.step()
            sparsifier.step()
            optimizer.zero_grad()
            assert loss.isfinite()
        assert stored(plain[0]) == stored(compiled[0])
    tolerance = {} if dtype is torch.float32 else {"rtol": 0.1, "atol": 0.05}
    for one, other in zip(plain[0].parameters(), compiled[0].parameters(), strict=True):
        torch.testing.assert_close(one, other, **tolerance)

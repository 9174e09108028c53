"""The storage of a layer that was asked for as "auto" follows its density, and all that belongs to the weight with it."""

import copy
import io

import pytest
import torch
from following import CHOICES, METHODS, TOTAL, build, held, stored, switches, table_from_60_percent
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


@pytest.fixture(autouse=True)
def from_60_percent(monkeypatch):
    monkeypatch.setattr(auto.POLICY, "table", table_from_60_percent())


# ---- what is stored how ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_the_table_is_asked_at_every_change_of_density(method):
    model, optimizer, sparsifier = build(method)
    seen = set()
    for step, _ in train(model, optimizer, sparsifier, range(1, TOTAL + 1)):
        for layer, row in zip(sparse_layers(model).values(), sparsifier.report().layers, strict=True):
            zeros = 1 - layer.density
            assert layer.layout == row.layout == ("auto" if zeros >= 0.6 else "masked")
            assert row.reason.startswith(f"{zeros:.0%} zeros; sparse storage is faster from 60% on, as measured on cpu")
            full = layer.pattern.rows * layer.pattern.cols
            room = max(layer.nnz, round(sparsifier.method.room_for(layer.density, Time(step, TOTAL)) * full))
            assert layer.capacity == full if layer.layout == "masked" else layer.nnz <= layer.capacity < 2 * room
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


def test_memory_shrinks_with_the_density():
    """Down to 5 %: a packed weight is made shorter whenever half of it would do."""
    model = nn.Sequential(nn.Linear(12, 20))
    method = sx.GMP(t_start=0, t_end=1.0, update_interval=1)
    sx.sparsify_(model, 0.95, method=method)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=TOTAL)
    lengths = []
    for step in range(1, TOTAL + 1):
        model(batch(step)[0]).square().sum().backward()
        optimizer.step()
        sparsifier.step()
        lengths.append(optimizer.state[model[0].weight]["exp_avg"].numel())
        assert lengths[-1] == model[0].capacity == model[0].weight.grad.numel()
        assert lengths[-1] == 240 if model[0].nnz > 96 else lengths[-1] < 2 * model[0].nnz
    assert model[0].nnz == 12
    assert lengths == sorted(lengths, reverse=True)
    assert len(set(lengths)) == 4  # full length, then packed, and shorter by halves


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


# ---- copies and the rest ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_copy_of_everything_trains_on_alike(method):
    parts = build(method)
    run(*parts, range(1, switches(method)[0] + 2))
    twins = copy.deepcopy(parts)
    at = switches(method)[0] + 2
    run(*parts, range(at, TOTAL + 1))
    run(*twins, range(at, TOTAL + 1))
    assert_same(everything(*twins[:2]), everything(*parts[:2]))
    assert twins[2].report() == parts[2].report()


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", [pytest.param(name, marks=[pytest.mark.slow][: name != "ac/dc"]) for name in METHODS])
def test_compiled_code_follows_and_autocast_works(method, dtype):
    plain, compiled = build(method), build(method)
    program = torch.compile(compiled[0], backend="aot_eager")
    for step in range(1, TOTAL + 1):
        x, y = batch(step)
        for (_, optimizer, sparsifier), call in ((plain, plain[0]), (compiled, program)):
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


# ---- where the length must stay -----------------------------------------------------------------------------------------


@pytest.fixture
def kept(monkeypatch):
    """As where several processes train."""
    monkeypatch.setattr(sx.nn.SparseLayer, "keeps_length", True)


def test_a_length_that_must_stay_stays(kept):
    """From 30 % to 65 %: full length is out of reach, and the report says why."""
    model = nn.Sequential(sx.SparseLinear(12, 20, sparsity=0.7, capacity=0.65, layout="auto"))
    model[0].aim_at_(0.1)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    method = sx.ESTDGM(cycles=1, densities=(0.3, 0.65), update_interval=3)
    sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=12)
    seen = []
    for step in range(1, 13):
        model(batch(step)[0]).square().sum().backward()
        optimizer.step()
        sparsifier.step()
        optimizer.zero_grad()
        seen.append((model[0].nnz, model[0].layout, model[0].capacity))
        if model[0].nnz == 156:
            (row,) = sparsifier.report().layers
            assert row.reason.startswith("35% zeros; sparse storage is faster from 60% on")
            assert row.reason.endswith("; stays 'auto', as its weight must keep its length where several processes train")
    assert sorted(set(seen)) == [(24, "auto", 156), (72, "auto", 156), (156, "auto", 156)]


def test_room_is_made_at_first_where_the_length_must_stay(kept):
    model = nn.Sequential(sx.SparseLinear(12, 20, sparsity=0.7, layout="auto"))
    method = sx.ESTDGM(densities=(0.3, 0.65))
    sx.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), method, total_steps=12)
    assert model[0].capacity == 156


def test_a_shorter_checkpoint_loads_where_the_length_must_stay(kept):
    donor = sx.SparseLinear(12, 20, sparsity=0.7, layout="auto")
    layer = sx.SparseLinear(12, 20, sparsity=0.3, layout="auto")
    layer.aim_at_(0.3)
    assert (donor.capacity, layer.layout) == (72, "masked")
    layer.load_state_dict(donor.state_dict())
    assert (layer.layout, layer.capacity, layer.nnz) == ("auto", 240, 72)
    assert torch.equal(layer.dense_weight(), donor.dense_weight())


# ---- what is observed ---------------------------------------------------------------------------------------------------


def test_a_phase_that_only_prunes_asks_for_no_gradient():
    """EST-DGM's change from 65 % to 25 %: by magnitude alone."""
    model = mlp(method="est-dgm", layout="csr")
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    sparsifier = sx.Sparsifier(model, optimizer, sx.ESTDGM(cycles=1, update_interval=2), total_steps=9)
    run(model, optimizer, sparsifier, range(1, 3))  # the next is the third, with which the second phase begins
    plain = mlp(method="est-dgm", layout="csr")
    plain.load_state_dict(model.state_dict())
    assert sx.count_flops(lambda: backward(model, 3)) == sx.count_flops(lambda: backward(plain, 3))
    optimizer.step()
    assert sparsifier.step()
    assert model[0].nnz == 72

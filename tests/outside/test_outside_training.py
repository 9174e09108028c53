"""A layout and a method from outside under the Sparsifier: counts, optimizer state, copies, resume, ranks, compiled code."""

import copy

import children
import pytest
import runs
import torch
from cases import TOLERANCE
from torch import nn

import sparse_ext as sx
from sparse_ext.nn import sparse_layers

pairs = pytest.mark.parametrize(("method", "layout"), runs.PAIRS)


def matrices(layer, optimizer):
    """What has a value per slot, as matrices."""
    state = optimizer.state[layer.weight]
    values = {"weight": layer.weight.detach(), "exp_avg": state["exp_avg"], "exp_avg_sq": state["exp_avg_sq"]}
    at, found = layer.slots(), {}
    for name, tensor in values.items():
        assert not tensor[at < 0].any()
        found[name] = torch.zeros(layer.product.rows * layer.product.cols)
        found[name][at[at >= 0]] = tensor[at >= 0]
    return found


@pairs
def test_counts_are_exact_and_state_follows(method, layout):
    model, optimizer, sparsifier = runs.build(method, layout)
    layers = list(sparse_layers(model).values())
    counts, changes, before = [layer.nnz for layer in layers], 0, []
    for _, updated in runs.steps(model, optimizer, sparsifier, range(1, 31)):
        now = [(layer.mask().flatten(), matrices(layer, optimizer)) for layer in layers]
        assert [int(mask.sum()) for mask, _ in now] == counts
        for (old_mask, old), (mask, new) in zip(before, now, strict=True) if updated else ():
            changes += int((mask & ~old_mask).sum())
            everywhere = method == "sr-ste"  # the weight is dense
            for name, tensor in new.items():
                stays = torch.ones_like(mask) if everywhere else mask & old_mask
                assert torch.equal(tensor[stays], old[name][stays])
                assert everywhere or not tensor[mask & ~old_mask].any()
        before = now
    assert changes


@pairs
def test_copies_are_tracked(method, layout):
    model, optimizer, sparsifier = runs.build(method, layout)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    sparsifier.track(average)
    for _, updated in runs.steps(model, optimizer, sparsifier, range(1, 21)):
        if updated:
            average.update_parameters(model)
    for own, other in zip(*(sparse_layers(one).values() for one in (model, average)), strict=True):
        assert torch.equal(own.mask(), other.mask())
        assert not torch.equal(own.weight, other.weight)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """{case}.checkpoint at several steps, {case}.result of another process, {case}.expected of the run that went on."""
    folder = tmp_path_factory.mktemp("resume")
    torch.set_num_threads(1)
    for number, pair in enumerate(runs.PAIRS):
        for stop in (17, 20):
            things = runs.build(*pair, seed=5)
            runs.run(*things, range(1, stop + 1))
            saved = {"pair": pair, "step": stop, "states": [thing.state_dict() for thing in things]}
            torch.save(saved, folder / f"{number}-{stop}.checkpoint")
            runs.run(*things, range(stop + 1, runs.TOTAL + 1))
            torch.save(runs.everything(*things), folder / f"{number}-{stop}.expected")
    children.run((runs.__file__, "resume", folder))
    return folder


@pairs
@pytest.mark.parametrize("stop", [17, 20])
def test_a_resumed_run_is_the_uninterrupted_one(folder, method, layout, stop):
    case = folder / f"{runs.PAIRS.index((method, layout))}-{stop}"
    result, expected = (torch.load(case.with_suffix(end), weights_only=True) for end in (".result", ".expected"))
    assert result.keys() == expected.keys()
    assert not [key for key, value in expected.items() if not torch.equal(result[key], value)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    children.run(*((runs.__file__, "rank", number, folder) for number in (0, 1)))
    return [torch.load(folder / f"{number}.masks", weights_only=True) for number in (0, 1)]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
@pairs
def test_ranks_agree(ranks, method, layout):
    first, second = (found[f"{method} {layout}"] for found in ranks)
    assert all(torch.equal(mask, second[name]) for name, mask in first.items())
    start = sparse_layers(runs.build(method, layout, seed=0)[0])
    assert not any(torch.equal(mask, start[name.removeprefix("module.")].mask()) for name, mask in first.items())


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pairs
def test_compiled_training_is_the_eager_one(method, layout, backend):
    if backend == "inductor" and layout != "ell" and method != "sparse-momentum":
        pytest.skip("the layouts' own tests do this")
    torch._dynamo.reset()
    results = []
    for compiled in (False, True):
        model, optimizer, sparsifier = runs.build(method, layout)
        step = torch.compile(model, backend=backend, fullgraph=True) if compiled else model
        runs.run(step, optimizer, sparsifier, range(1, 13))
        results.append([(layer.mask(), layer.weight) for layer in sparse_layers(model).values()])
    for (mask, weight), (want_mask, want_weight) in zip(*results, strict=True):
        assert torch.equal(mask, want_mask)
        torch.testing.assert_close(weight, want_weight, **TOLERANCE[torch.float32])


def test_a_layer_without_gradients_keeps_its_pattern_also_after_a_resume():
    """What the running mean still holds from before says nothing."""
    things = runs.build("sparse-momentum", "ell")
    runs.run(*things, range(1, 6))
    states = [thing.state_dict() for thing in things]
    things = runs.build("sparse-momentum", "ell")
    for thing, state in zip(things, states, strict=True):
        thing.load_state_dict(state)
    model, _, sparsifier = things
    before = model[0].mask()
    assert not any(sparsifier.step() for _ in range(5))
    assert torch.equal(model[0].mask(), before)


# ---- the method alone ------------------------------------------------------------------------------------------------


def test_growth_by_the_running_mean():
    """One layer whose gradients are chosen: a mean of 0.5 at position 7 beats a last gradient of 3 at position 2."""
    dense = nn.Linear(4, 2, bias=False)
    dense.weight.data.copy_(torch.tensor([[1.0, 2.0, 0.0, 0.0], [3.0, 4.0, 0.0, 0.0]]))
    layer = sx.SparseLinear.from_dense(dense, mask=dense.weight != 0, layout="csr")
    method = sx.METHODS["sparse-momentum"](drop_fraction=0.25, update_interval=3, t_end=1.0, schedule="constant", momentum=0.9)
    model, optimizer = nn.Sequential(layer), torch.optim.SGD(layer.parameters(), lr=0.0)
    sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=100)
    for step, (at, value) in enumerate([(7, 10.0), (7, -5.0), (2, 3.0)], 1):
        gradient = torch.zeros(8)
        gradient[at] = value
        (layer(torch.eye(4)) * gradient.view(2, 4).t()).sum().backward()
        optimizer.step()
        saved = copy.deepcopy(sparsifier.state_dict())
        assert sparsifier.step() == (step == 3)
        optimizer.zero_grad()
    mean = sparsifier.state_dict()["signals"]["0"]["running mean"]["mean"].flatten()
    torch.testing.assert_close(mean[[2, 7]], torch.tensor([0.3, 0.9 * (0.9 * 1.0 - 0.5)]), **TOLERANCE[torch.float32])
    assert saved["signals"]["0"]["running mean"]["mean"].flatten()[2] == 0
    assert layer.mask().flatten().nonzero().flatten().tolist() == [1, 4, 5, 7]

"""What moves a module moves its pattern; a layer that comes from nowhere, by `to_empty` or `skip_init`, has a random one."""

import copy
import io
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from cases import TOLERANCE
from kinds import KINDS
from torch import nn
from torch.nn.utils import skip_init

import sparse_ext as sx
from sparse_ext.ops import LAYOUTS

EVERY = [(kind, layout) for kind in KINDS for layout in LAYOUTS]


def room(layout):
    return {"sparsity": 0.7, "capacity": 0.6} if LAYOUTS[layout].pattern.VARIABLE else {}


def on_meta(kind, layout, **options):
    return KINDS[kind].made(layout=layout, device="meta", **{**room(layout), **options})


def skipped(kind, layout):
    return skip_init(KINDS[kind].sparse, **KINDS[kind].arguments, layout=layout, **room(layout))


def inside_a_model(kind, layout):
    with torch.device("meta"):
        model = sx.sparsify_(nn.Sequential(KINDS[kind].made_dense()), 0.7 if room(layout) else None, layout=layout)
    return model.to_empty(device="cpu")[0]


def without_its_buffers_on_meta(kind, layout):
    """As accelerate's init_empty_weights() makes one: it moves parameters alone to "meta"."""
    layer = KINDS[kind].made(layout=layout, **room(layout))
    layer.write_pattern_(layer.pattern.empty(layer.product.rows, layer.product.cols, layer.pattern.capacity, "cpu"))
    for name, parameter in layer.named_parameters():
        setattr(layer, name, nn.Parameter(parameter.to("meta")))
    empty = {id(buffer) for buffer in layer.buffers()}
    return layer._apply(lambda t: t.clone() if id(t) in empty else torch.empty_like(t, device="cpu"))


FROM_NOWHERE = {
    "to_empty": lambda kind, layout: on_meta(kind, layout).to_empty(device="cpu"),
    "skip_init": skipped,
    "in a model": inside_a_model,
    "parameters alone": without_its_buffers_on_meta,
    "of a layer with values": lambda kind, layout: KINDS[kind].made(layout=layout, **room(layout)).to_empty(device="cpu"),
}


@pytest.mark.parametrize("way", FROM_NOWHERE)
@pytest.mark.parametrize(("kind", "layout"), EVERY)
def test_the_users_own_initialisation_is_all_that_is_needed(kind, layout, way):
    expected = inside_a_model(kind, layout) if way == "in a model" else KINDS[kind].made(layout=layout, **room(layout))
    layer, x = FROM_NOWHERE[way](kind, layout), KINDS[kind].input()
    assert layer.nnz == int(layer.mask().sum()) == expected.nnz
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    y = layer(x)
    torch.testing.assert_close(y, layer.to_dense()(x))
    assert (y.std(0) > 0).any()
    y.sum().backward()
    assert (layer.weight.grad != 0).any()


@pytest.mark.parametrize("layout", [layout for layout, kind in LAYOUTS.items() if kind.pattern.BUFFERS])
def test_the_first_pattern_follows_the_seed(layout):
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(on_meta("linear", layout).to_empty(device="cpu").mask())
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("init", ["variance", "masked"])
def test_conversion_draws_one_pattern(init):
    """Of its two it would use the second: with the same seed a recorded run would become another one."""
    dense = nn.Linear(12, 9)
    torch.manual_seed(3)
    (layer,) = sx.sparsify_(nn.Sequential(dense), 0.5, layout="csr", init=init)
    torch.manual_seed(3)
    assert torch.equal(layer.mask(), sx.SparseLinear(12, 9, sparsity=0.5).mask())


def test_from_dense_draws_nothing():
    dense = nn.Linear(12, 9)
    torch.manual_seed(3)
    sx.SparseLinear.from_dense(dense, sparsity=0.5)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(3)))


@pytest.mark.parametrize("memory", ["zeros", "another layer's"])
@pytest.mark.parametrize("layout", [layout for layout, kind in LAYOUTS.items() if kind.pattern.BUFFERS])
def test_a_pattern_that_memory_happens_to_hold_is_none(layout, memory):
    layer, other = (KINDS["linear"].made(layout=layout, **room(layout)) for _ in range(2))
    found = {id(mine): its for (_, mine), (_, its) in zip(layer.named_buffers(), other.named_buffers(), strict=True)}
    layer._apply(lambda t: found[id(t)].clone() if memory != "zeros" and id(t) in found else torch.zeros_like(t))
    assert layer.nnz == other.nnz == int(layer.mask().sum())
    assert not torch.equal(layer.mask(), other.mask())
    x = KINDS["linear"].input()
    torch.testing.assert_close(layer(x), layer.to_dense()(x))


@pytest.mark.parametrize("capacity", [0.5, 1.0])
def test_a_dense_weight_begins_with_the_first_rule(capacity):
    layer = KINDS["linear"].made(layout="2:4", capacity=capacity)
    if capacity == 1:
        layer.choose_("soft")
    layer.to_empty(device="cpu")
    assert (layer.chosen_by and layer.chosen_by.name) == (None if capacity == 0.5 else "largest")


METHODS = {"RigL": sx.RigL(update_interval=2), "SET": sx.SET(update_interval=2), "Static": sx.Static()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("layout", [layout for layout, kind in LAYOUTS.items() if kind.pattern.REGROWS])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_into_unused_slots_reaches_nothing(kind, layout, method):
    """As `nn.init.normal_` on a packed weight with room to grow does."""
    layer, x, results = FROM_NOWHERE["to_empty"](kind, layout), KINDS[kind].input(), []
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    clean = copy.deepcopy(layer)
    with torch.no_grad():
        clean.weight.masked_fill_(clean.slots() < 0, 0)
    for one in (layer, clean):
        model = nn.Sequential(one)
        optimizer = torch.optim.AdamW(model.parameters(), 0.1, weight_decay=0.1)
        sparsifier = sx.Sparsifier(model, optimizer, METHODS[method], total_steps=20)
        for _ in range(7):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            sparsifier.step()
        results.append((model(x), one.mask(), one.dense_weight()))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unused_slots_are_zero_from_the_start(layout):
    with torch.device("meta"):
        layer = sx.SparseLinear(13, 9, layout=layout, **room(layout))
    layer._apply(lambda t: torch.full(t.shape, torch.nan if t.is_floating_point() else 77, dtype=t.dtype))
    assert (layer.weight[layer.slots() < 0] == 0).all()


# ---- moves -----------------------------------------------------------------------------------------------------------


def through_a_file(layer):
    torch.save(layer, file := io.BytesIO())
    file.seek(0)
    return torch.load(file, weights_only=False)


MOVES = {
    "double": (nn.Module.double, torch.float64),
    "bfloat16": (nn.Module.bfloat16, torch.bfloat16),
    "half and back": (lambda layer: layer.half().float(), torch.float32),
    "type": (lambda layer: layer.type(torch.float64), torch.float64),
    "type by name": (lambda layer: layer.type("torch.DoubleTensor"), torch.float64),
    "a type that rounds indices": (lambda layer: layer.type(torch.float16).float(), torch.float32),
    "memory format": (lambda layer: nn.Sequential(layer).to(memory_format=torch.channels_last)[0], torch.float32),
    "cpu": (nn.Module.cpu, torch.float32),
    "share_memory": (nn.Module.share_memory, torch.float32),
    "another process": (lambda layer: ForkingPickler.loads(ForkingPickler.dumps(layer)), torch.float32),
    "a file": (through_a_file, torch.float32),
    "deepcopy": (copy.deepcopy, torch.float32),
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_moves_keep_the_pattern(layout, move):
    """5003 columns: float16 has no 5001."""
    layer = sx.SparseLinear(5003, 2, layout=layout)
    layer.weight.data.round_(decimals=2)
    mask, dtypes, (way, dtype) = layer.mask(), {k: b.dtype for k, b in layer.pattern.buffers.items()}, MOVES[move]
    layer = way(layer)
    assert torch.equal(layer.mask(), mask)
    assert {k: b.dtype for k, b in layer.pattern.buffers.items()} == dtypes
    assert (layer.weight.dtype, layer.bias.dtype) == (dtype, dtype)
    x = torch.randn(3, 5003, dtype=dtype)
    y = layer(x)
    torch.testing.assert_close(y, nn.functional.linear(x, layer.dense_weight(), layer.bias), **TOLERANCE[torch.bfloat16])


def test_a_pattern_that_is_not_valid_is_not_moved():
    layer = sx.SparseLinear(12, 9)
    layer.col_idx[0] = 99
    with pytest.raises(ValueError, match="expected column indices between 0 and 11, got 99"):
        layer.double()

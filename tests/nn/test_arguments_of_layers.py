"""What a new layer is asked for: sizes, shares and dtypes as PyTorch's layers take them, or a sentence; defaults for both."""

import numpy as np
import pytest
import torch
from kinds import KINDS
from torch import nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import sparse_ext as sx
from sparse_ext.ops import BACKENDS, LAYOUTS

EVERY = [(kind, layout) for kind in KINDS for layout in LAYOUTS]
OWN = [layout for layout, kind in LAYOUTS.items() if kind.__module__.startswith("sparse_ext.")]  # not those of other tests
VARIABLE = [layout for layout, kind in LAYOUTS.items() if kind.pattern.VARIABLE]


def sparsity(layout):
    return {"sparsity": 0.5} if LAYOUTS[layout].pattern.VARIABLE else {}


def trained(layer, x):
    """The matrix and the output after four steps, of which two regrow where that is possible."""
    model = nn.Sequential(layer)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    method = sx.RigL(update_interval=2) if layer.pattern.REGROWS else sx.Static()
    sparsifier = sx.Sparsifier(model, optimizer, method, total_steps=8)
    for _ in range(4):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        sparsifier.step()
    return layer.dense_weight(), model(x)


# ---- sizes -----------------------------------------------------------------------------------------------------------


SIZES = {"int64": np.int64, "int32": np.int32, "array": np.array, "tensor": torch.tensor}


@pytest.mark.parametrize("way", SIZES)
@pytest.mark.parametrize(("kind", "layout"), EVERY)
def test_sizes_of_other_libraries(kind, layout, way):
    other, x = {name: SIZES[way](size) for name, size in KINDS[kind].arguments.items()}, KINDS[kind].input()
    results = []
    for arguments in (KINDS[kind].arguments, other):
        torch.manual_seed(0)
        layer = KINDS[kind].sparse(**arguments, layout=layout, **sparsity(layout))
        results.append((repr(layer), layer.product, *trained(layer, x)))
        assert all(
            type(getattr(layer, name)) is int for name in ("in_features", "in_channels", "groups") if hasattr(layer, name)
        )
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two


def test_sizes_for_each_dimension():
    sizes = {"kernel_size": np.array([3, 2]), "stride": [np.int64(1), torch.tensor(2)], "padding": torch.Size((1, 0))}
    layer = sx.SparseConv2d(2, 4, **sizes)
    assert (layer.kernel_size, layer.stride, layer.padding) == ((3, 2), (1, 2), (1, 0))
    assert layer(torch.ones(1, 2, 5, 6)).shape == nn.Conv2d(2, 4, (3, 2), (1, 2), (1, 0))(torch.ones(1, 2, 5, 6)).shape


def test_a_symbolic_size_is_fixed():
    shapes = ShapeEnv()
    source = torch._dynamo.source.ConstantSource("size")
    size = shapes.create_symintnode(shapes.create_symbol(12, source), hint=12, source=source)
    assert sx.SparseLinear(size, 9).in_features == 12


@pytest.mark.parametrize(
    "size", [-1, 2.0, True, np.bool_(True), torch.tensor(True), torch.tensor(2.0), "3", None, [3]], ids=repr
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_size_is_refused(kind, size):
    for name in KINDS[kind].arguments:
        if name != "padding" and not (name == "kernel_size" and kind == "conv1d"):  # one number is as good as a list of it
            with pytest.raises(
                ValueError, match=f"{KINDS[kind].sparse.__name__}: expected {name} to be a whole number of at least"
            ):
                KINDS[kind].sparse(**{**KINDS[kind].arguments, name: size})


@pytest.mark.parametrize(("layout", "rows", "what"), [("csr", 2**16, "entries"), ("masked", 2**16, "entries"),
                                                       ("2:4", 2**17, "entries"), ("csr", 2**31, "rows")])  # fmt: skip
def test_more_than_int32_counts_is_refused_before_it_is_allocated(layout, rows, what):
    with pytest.raises(ValueError, match=rf"{layout}: expected at most \d+ {what} \(indices are int32\), got \d+"):
        sx.SparseLinear(2**16, rows, layout=layout, **({"sparsity": 0.1} if layout != "2:4" else {}))


# ---- shares ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [np.float32, np.float64, torch.tensor, lambda value: torch.tensor([value])])
@pytest.mark.parametrize("layout", VARIABLE)
def test_shares_of_other_libraries(layout, way):
    layer = sx.SparseLinear(12, 10, sparsity=way(0.75), capacity=way(0.5), layout=layout)
    assert (layer.nnz, layer.capacity) == (30, sx.SparseLinear(12, 10, sparsity=0.75, capacity=0.5, layout=layout).capacity)
    (layer,) = sx.sparsify_(nn.Sequential(nn.Linear(12, 10)), way(0.75), layout=layout)
    assert layer.nnz == 30


@pytest.mark.parametrize("value", ["0.5", True, np.array([0.5, 0.5]), [0.5], 1j], ids=repr)
@pytest.mark.parametrize("name", ["sparsity", "capacity"])
def test_what_is_no_share_is_refused(name, value):
    with pytest.raises(ValueError, match=f"expected {name} to be a number, got "):
        sx.SparseLinear(12, 10, **{name: value})


def test_percent_are_explained():
    with pytest.raises(ValueError, match=r"expected sparsity in \[0, 1\), got 90; 90 % zeros are 0.9"):
        sx.sparsify_(nn.Sequential(nn.Linear(12, 10)), 90)


# ---- dtypes ----------------------------------------------------------------------------------------------------------

ON_CPU = r"bfloat16, float32, float64 on cpu, got torch.float16; torch.float16 needs a GPU, use bfloat16 or float32 here"


@pytest.mark.parametrize(("kind", "layout"), EVERY)
def test_float16_on_the_cpu_is_refused_where_nothing_multiplies_it(kind, layout):
    """The layer exists on "meta"; one of 2:4 is stored on the CPU, for a GPU."""
    assert KINDS[kind].made(layout=layout, dtype=torch.half, device="meta").weight.dtype == torch.half
    if LAYOUTS[layout].refuses(torch.half, torch.device("cpu")):
        with pytest.raises(TypeError, match=f"{KINDS[kind].sparse.__name__}: expected a weight of dtype {ON_CPU}"):
            KINDS[kind].made(layout=layout, dtype=torch.half)
    else:
        assert KINDS[kind].made(layout=layout, dtype=torch.half).weight.dtype == torch.half


def test_which_layouts_have_float16_on_the_cpu():
    cpu = torch.device("cpu")
    assert {layout for layout, kind in LAYOUTS.items() if kind.refuses(torch.half, cpu)} >= {"csr", "auto", "masked"}
    assert all(kind.refuses(dtype, cpu) is None for kind in LAYOUTS.values() for dtype in BACKENDS["cpu"].dtypes)


@pytest.mark.parametrize("layout", OWN)
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_made_float16_on_the_cpu_says_so_when_it_multiplies(kind, layout):
    layer, x = KINDS[kind].made(layout=layout, **sparsity(layout)), KINDS[kind].input()
    mask = layer.mask()
    layer.half()
    if layout == "dense":  # by torch's own kernels
        assert layer(x.half()).dtype == torch.half
    else:
        with pytest.raises(TypeError, match=ON_CPU):
            layer(x.half())
    assert torch.equal(layer.float().mask(), mask)
    assert layer(x).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn, "float32"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_dtypes_are_refused(layout, dtype):
    with pytest.raises(TypeError, match=f"SparseLinear: expected dtype to be one of bfloat16, .*, float64, got {dtype}"):
        sx.SparseLinear(12, 9, layout=layout, dtype=dtype)


# ---- defaults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", OWN)
@pytest.mark.parametrize("kind", KINDS)
def test_a_default_device_changes_nothing_for_layers_on_another(kind, layout):
    """ "meta" stands for any: a tensor that is made there by accident cannot be read."""
    x, results = KINDS[kind].input(), []
    for default in ("cpu", "meta"):
        torch.manual_seed(0)
        with torch.device(default):
            layer = KINDS[kind].made(layout=layout, device="cpu", **sparsity(layout))
            results.append((layer.mask(), *trained(layer, x), layer.to_dense().weight))
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_set_default_device(layout):
    torch.set_default_device("meta")
    try:
        assert {tensor.device.type for tensor in sx.SparseLinear(12, 9, layout=layout).state_dict().values()} == {"meta"}
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_default_dtype_is_the_weights(layout, dtype):
    """Where there are kernels for it; the pattern is the same one."""
    torch.manual_seed(0)
    mask = sx.SparseLinear(12, 9, layout=layout).mask()
    torch.set_default_dtype(dtype)
    try:
        if LAYOUTS[layout].refuses(dtype, torch.device("cpu")):
            with pytest.raises(TypeError, match=ON_CPU):
                sx.SparseLinear(12, 9, layout=layout)
        else:
            torch.manual_seed(0)
            layer = sx.SparseLinear(12, 9, layout=layout)
            assert (layer.weight.dtype, layer.bias.dtype) == (dtype, dtype)
            assert torch.equal(layer.mask(), mask)
    finally:
        torch.set_default_dtype(torch.float32)

"""Who is measured: for a case, the functions that compute each product. CONTENDERS is the table.

Products: "forward", of a linear layer x W^T + b; "input gradient" dy W; "weight gradient" dy^T x; "step": forward and backward
of the layer as a module; "regrow": replace 30 % of the connections by score; "pack": from a dense weight to what products
read, beside a clone. A contender leaves out what it does not have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle

import torch
from torch import nn

import sparse_ext as sx
from sparse_ext.nn import SparseLayer
from sparse_ext.nn.table import REPLACEMENTS
from sparse_ext.ops import BACKENDS, kernels_of, layout_named, operands_of
from sparse_ext.ops.nm24.kernels import nm24_gemm, nm24_prune

from .cases import Case, Shape

Functions = dict[str, Callable[[], object]]
Contender = Callable[["Operands"], Functions]
COLD_BYTES = 200 << 20  # operands take turns until this much lies between two uses: four times the L2 of the largest GPU


@dataclass
class Operands:
    """Random tensors, never zeros: the same for every contender."""

    case: Case
    x: torch.Tensor = field(init=False)
    dy: torch.Tensor = field(init=False)
    weight: torch.Tensor = field(init=False)  # dense, zeros outside of the mask
    bias: torch.Tensor = field(init=False)
    mask: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        shape, device, dtype = self.case.shape, self.case.device, self.case.dtype
        generator = torch.Generator(device).manual_seed(1)

        def random(*sizes: int) -> torch.Tensor:
            return torch.randn(*sizes, generator=generator, device=device).to(dtype)

        x, dy, weight = shape.sizes
        self.mask = self.case.mask().view(weight)
        self.x, self.dy = random(*x), random(*dy)
        self.weight, self.bias = random(*weight) * self.mask, random(shape.out_features)

    def layer(self) -> nn.Module:
        """The dense layer."""
        layer = self.case.shape.layer(self.weight.dtype)
        layer.weight, layer.bias = nn.Parameter(self.weight.clone()), nn.Parameter(self.bias.clone())
        return layer

    def cold(self, function: Callable[[torch.Tensor, torch.Tensor], object]) -> Callable[[], object]:
        """function(x, dy) on copies that take turns on a GPU, so that none of them is found in its cache."""
        copies = 1
        if self.case.device == "cuda":
            copies += COLD_BYTES // (self.x.nbytes + self.dy.nbytes)
        turns = cycle([(self.x.clone(), self.dy.clone()) for _ in range(copies)])
        return lambda: function(*next(turns))


def linear_only(contender: Contender) -> Contender:
    """The same, which has nothing for convolutions."""

    def made(o: Operands) -> Functions:
        return contender(o) if isinstance(o.case.shape, Shape) else {}

    return made


def step(o: Operands, layer: nn.Module) -> Callable[[], object]:
    """Forward and backward of a module, gradients of weight, bias and input."""

    def run(x: torch.Tensor, dy: torch.Tensor) -> None:
        x = x.detach().requires_grad_()
        for parameter in layer.parameters():
            parameter.grad = None
        layer(x).backward(dy)

    return o.cold(run)


def dense(o: Operands) -> Functions:
    """PyTorch's layer, and drop and grow on a mask with torch.topk, as simulations of sparse training do it."""
    score = torch.randn_like(o.weight, dtype=torch.float32)
    count = int(0.3 * o.mask.sum())

    def regrow_mask() -> torch.Tensor:
        magnitude = torch.where(o.mask, o.weight.abs(), torch.inf).flatten()
        mask = o.mask.flatten().clone()
        mask[magnitude.topk(count, largest=False).indices] = False
        mask[torch.where(mask, -1.0, score.abs().flatten()).topk(count).indices] = True
        return mask

    shape = o.case.shape
    return {
        "forward": o.cold(lambda x, dy: shape.forward(x, o.weight, o.bias)),
        "input gradient": o.cold(lambda x, dy: shape.gradient(dy, x, o.weight, "input")),
        "weight gradient": o.cold(lambda x, dy: shape.gradient(dy, x, o.weight, "weight")),
        "step": step(o, o.layer()),
        "regrow": regrow_mask,
        "pack": o.weight.clone,
    }


def tf32(o: Operands) -> Functions:
    """The dense products of float32 on a GPU's tensor cores, which round the operands to 10 bits."""
    if o.case.device != "cuda" or o.case.dtype != torch.float32:
        return {}

    def rounded(function: Callable[[], object]) -> Callable[[], object]:
        def run() -> None:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
            function()
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

        return run

    return {name: rounded(function) for name, function in dense(o).items() if name not in ("regrow", "pack")}


def products(o: Operands, layer: SparseLayer) -> Functions:
    """The three products of a layer, without autograd."""
    layout, product, weight, rule = layout_named(layer.layout), layer.product, layer.weight.detach(), layer.chosen_by
    kernels, operands = kernels_of(layout, product), operands_of(layout, layer.pattern)
    return {
        "forward": o.cold(lambda x, dy: kernels.forward(product, weight, rule, operands, x, o.bias, False)),
        "input gradient": o.cold(lambda x, dy: kernels.grad_input(product, weight, rule, operands, dy, x.shape)),
        "weight gradient": o.cold(lambda x, dy: kernels.grad_weight(product, rule, operands, dy, x, layer.rng)),
    }


def sparse_ext(o: Operands, layout: str = "csr") -> Functions:
    """The sparse layer and its products."""
    dense = o.layer()
    layer = REPLACEMENTS[type(dense)].from_dense(dense, mask=o.mask, layout=layout)
    pattern, weight = layer.pattern, layer.weight.detach()
    score = torch.randn_like(o.weight.flatten(1), dtype=torch.float32)
    count = int(0.3 * layer.nnz)
    return {
        **products(o, layer),
        "step": step(o, layer),
        "regrow": lambda: pattern.regrown(weight, score, count, count),
    }


def on_isa(isa: str, o: Operands, functions: Functions) -> Functions:
    """The same functions with other kernels of a GPU; none where the device or the build does not have them, or of 32 bits."""
    if o.case.device != "cuda" or o.case.dtype not in (torch.bfloat16, torch.float16):
        return {}
    module = BACKENDS["cuda"].module
    in_use, available = module.isa(), module.use_isa(isa)
    module.use_isa(in_use)

    def there(function: Callable[[], object]) -> Callable[[], object]:
        def run() -> None:
            module.use_isa(isa)
            function()
            module.use_isa(in_use)

        return run

    return {name: there(function) for name, function in functions.items()} if available else {}


@linear_only
def sm_90a(o: Operands) -> Functions:
    """The product for which only Hopper has a kernel of its own."""
    return on_isa("sm_90a", o, {"weight gradient": sparse_ext(o)["weight gradient"]})


def auto(o: Operands) -> Functions:
    """The same with layout="auto"."""
    functions = sparse_ext(o, "auto")
    del functions["regrow"]
    return functions


def transposable(o: Operands) -> sx.SparseLinear:
    """A layer with a dense weight, of which products take transposable 2:4 tiles."""
    layer = sx.SparseLinear.from_dense(o.layer(), layout="2:4", capacity=1.0)
    layer.choose_("transposable")
    return layer


@linear_only
def nm24(o: Operands) -> Functions:
    """Layout "2:4" with a dense weight and transposable tiles, as FST trains: packing is in "step", choosing tiles is "pack".

    Of a case at 50 % zeros, whatever its pattern; on a GPU of 16 bits.
    """
    if o.case.sparsity != 0.5 or (o.case.device == "cuda" and o.case.dtype.itemsize > 2):
        return {}
    layer = transposable(o)
    dense = layer.weight.detach().view_as(o.weight)
    values, ids, values_t, ids_t = nm24_prune(dense, "transposable")
    return {
        "forward": o.cold(lambda x, dy: nm24_gemm(values, ids, x, o.bias)),
        "input gradient": o.cold(lambda x, dy: nm24_gemm(values_t, ids_t, dy, None)),
        "step": step(o, layer),
        "pack": lambda: nm24_prune(dense, "transposable"),
    }


def nm24_mvue(o: Operands) -> Functions:
    """The same with a sampled output gradient, so that the weight gradient is a 2:4 product too."""
    if not nm24(o):
        return {}
    layer = transposable(o)
    layer.sample_gradient(torch.zeros(2, dtype=torch.int64, device=o.case.device))
    return {"weight gradient": products(o, layer)["weight gradient"], "step": step(o, layer)}


@linear_only
def semi_structured(o: Operands) -> Functions:
    """PyTorch's own 2:4 tensors (cuSPARSELt, or CUTLASS): inference on a GPU."""
    if o.case.sparsity != 0.5 or o.case.device != "cuda":
        return {}
    layer = sx.SparseLinear.from_dense(o.layer(), layout="2:4").to_semi_structured()
    functions: Functions = {"forward": o.cold(lambda x, dy: layer(x))}
    return {name: function for name, function in functions.items() if _runs(function)}


@linear_only
def sparselab(o: Operands) -> Functions:
    """SparseLab (PyPI): float32 and uniform patterns on the CPU; nothing where it is not installed."""
    case = o.case
    if (case.dtype, case.device, case.pattern) != (torch.float32, "cpu", "uniform"):
        return {}
    try:
        import sparselab
    except ImportError:
        return {}
    # 0.2.2 keys it by id(): a new layer may meet the entry of one that is gone, and fail.
    sparselab.ops._transpose_cache.clear()
    return {"step": step(o, sparselab.SparseLinear(case.shape.in_features, case.shape.out_features, sparsity=case.sparsity))}


class _TorchCsr(nn.Module):
    """PyTorch's own CSR tensor as the weight: forward and backward as autograd gives them."""

    def __init__(self, o: Operands) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(o.weight.to_sparse_csr()), nn.Parameter(o.bias.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.weight @ x.t()).t() + self.bias


def _runs(function: Callable[[], object]) -> bool:
    """Whether PyTorch has this product: neither MKL nor cuSPARSE samples one in 16 bits, for example."""
    try:
        function()
    except (RuntimeError, NotImplementedError):
        return False
    return True


@linear_only
def torch_sparse(o: Operands) -> Functions:
    """torch.sparse CSR: cuSPARSE on a GPU, MKL on the CPU."""
    layer = _TorchCsr(o)
    matrix, transposed = o.weight.to_sparse_csr(), o.weight.t().contiguous().to_sparse_csr()
    functions = {
        "forward": o.cold(lambda x, dy: (matrix @ x.t()).t() + o.bias),
        "input gradient": o.cold(lambda x, dy: (transposed @ dy.t()).t()),
        "weight gradient": o.cold(lambda x, dy: torch.sparse.sampled_addmm(matrix, dy.t(), x, beta=0.0)),
        "step": step(o, layer),
    }
    return {name: function for name, function in functions.items() if _runs(function)}


# The first is the baseline of every ratio.
CONTENDERS: dict[str, Contender] = {
    "dense": dense,
    "tf32": tf32,
    "sparse_ext": sparse_ext,
    "sm_90a": sm_90a,
    "auto": auto,
    "2:4": nm24,
    "2:4 mvue": nm24_mvue,
    "2:4 sm_90a": lambda o: on_isa("sm_90a", o, nm24(o)),
    "2:4 sm_90a mvue": lambda o: on_isa("sm_90a", o, nm24_mvue(o)),
    "torch 2:4": semi_structured,
    "sparselab": sparselab,
    "torch.sparse": torch_sparse,
}
PRODUCTS = ("forward", "input gradient", "weight gradient", "step", "regrow", "pack")

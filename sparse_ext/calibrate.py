"""`python -m sparse_ext calibrate`: from which sparsity on sparse products are faster here, for layout="auto" and `estimate`.

It measures crossovers (see ops/auto.py) and writes them to the user's own table. For each size the three products of a training
step are measured in every way that layout="auto" (and "2:4") chooses from: sparse at several densities, unpacked and multiplied
densely, and stored at full length with a mask. All take turns in one run, so that each finds its operands where the others have
left them. Between two densities the ratio of the times is taken to be a power of the density. torch's dense product takes
turns, too: the sparse kernels' times over its own are written as `ratios`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.grad import conv2d_input, conv2d_weight

from .ops import LAYOUTS, Conv2d, CsrPattern, Linear, MaskedPattern, Nm24Pattern, auto, operands_of
from .ops.csr import auto_conv, conv, densified
from .ops.nm24 import kernels as nm24
from .ops.nm24.auto import FORWARD, GRAD_INPUT
from .timing import interleaved, keep_memory

DENSITIES = {"cpu": (0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8), "cuda": (0.01, 0.03, 0.06, 0.12, 0.25, 0.5)}
UNPACKED_AT = 0.5  # the time of unpacking hardly depends on the density

DTYPES = ("float32", "bfloat16", "float64", "float16")

Functions = dict[str, Callable[[], object]]


class Size(NamedTuple):
    """A square weight [width, width] and so many tokens."""

    width: int
    tokens: int

    @property
    def positions(self) -> int:
        """Of the weight."""
        return self.width**2

    def __str__(self) -> str:
        return f"{self.width} x {self.width}, {self.tokens} tokens"


class Images(NamedTuple):
    """A square kernel between so many channels, and a batch of square images; a pixel is a token."""

    channels: int
    kernel: int
    side: int
    batch: int = 16

    @property
    def positions(self) -> int:
        return (self.channels * self.kernel) ** 2

    @property
    def tokens(self) -> int:
        return self.batch * self.side**2

    @property
    def products(self) -> tuple[str, ...]:
        """As the table calls them: forward, input gradient, weight gradient."""
        return auto_conv.all_in_table((self.kernel, self.kernel))

    def __str__(self) -> str:
        return f"{self.channels} channels, {self.kernel} x {self.kernel}, {self.batch} x {self.side} x {self.side}"


SIZES = {
    "cpu": tuple(map(Size._make, product((512, 1024, 2048), (16, 64, 256)))),
    "cuda": tuple(map(Size._make, product((1024, 4096), (256, 2048, 8192)))),
}
IMAGES = {
    # The widths of a ResNet-50: of its 3 x 3 kernels, and of its 1 x 1 kernels at about the geometric mean of their channels.
    "cpu": (
        *(Images(c, 3, 3584 // c) for c in (64, 128, 256, 512)),
        *(Images(c, 1, size // c) for c, size in product((128, 256, 512), (3584, 7168))),
    ),
    "cuda": tuple(Images(c, k, 3584 // c, 64) for c, k in product((64, 128, 256, 512), (1, 3))),
}


def contenders(size: Size, dtype: torch.dtype, device: str) -> Functions:
    """{"way product": function}: every way that is chosen from; a density is the way of CSR kernels."""
    width, tokens = size
    x, dy, matrix = (torch.randn(n, width, device=device).to(dtype) for n in (tokens, tokens, width))
    linear = Linear(width, width)
    found: Functions = {}

    def add(way: str, layout: str, pattern: Any) -> None:
        kernels, operands = LAYOUTS[layout].products[Linear], operands_of(LAYOUTS[layout], pattern)
        weight = LAYOUTS[layout].pack(matrix, pattern)
        found[f"{way} matmul"] = lambda: kernels.forward(linear, weight, None, operands, x, None, False)
        found[f"{way} matmul_t"] = lambda: kernels.grad_input(linear, weight, None, operands, dy, x.shape)
        found[f"{way} grad_weight"] = lambda: kernels.grad_weight(linear, None, operands, dy, x, None)

    for density in DENSITIES[device]:
        add(str(density), "csr", CsrPattern.random(width, width, round(density * width * width), 1, device))
    pattern = CsrPattern.random(width, width, round(UNPACKED_AT * width * width), 1, device)
    weight, index = LAYOUTS["csr"].pack(matrix, pattern), operands_of(LAYOUTS["csr"], pattern)[:2]
    found["unpacked matmul"] = lambda: densified.densified_matmul.call(weight, *index, width, x, None)
    found["unpacked matmul_t"] = lambda: densified.densified_matmul_t.call(weight, *index, width, dy)
    found["unpacked grad_weight"] = lambda: densified.densified_grad_weight.call(*index, width, dy, x)
    add("masked", "masked", MaskedPattern.from_mask(pattern.mask()))
    found["dense matmul"] = lambda: x @ matrix.t()
    found["dense matmul_t"] = lambda: dy @ matrix
    found["dense grad_weight"] = lambda: dy.t() @ x
    return found


def contenders_conv(size: Images, dtype: torch.dtype, device: str) -> Functions:
    """The same for convolutions: by the kernels of CSR at several densities, or unpacked and by torch."""
    made = Conv2d(size.channels, size.channels, (size.kernel,) * 2, padding=(size.kernel // 2,) * 2)
    shape = size.batch, size.channels, size.side, size.side
    x, dy = (torch.randn(shape, device=device).to(dtype) for _ in range(2))
    matrix = torch.randn(made.rows, made.cols, device=device).to(dtype)
    found: Functions = {}
    for way, density in (*((str(density), density) for density in DENSITIES[device]), ("unpacked", UNPACKED_AT)):
        pattern = CsrPattern.random(made.rows, made.cols, round(density * size.positions), 1, device)
        weight, views = LAYOUTS["csr"].pack(matrix, pattern), operands_of(LAYOUTS["csr"], pattern)
        densely = partial(_always, way == "unpacked")
        forward = densely, weight, *views[:2], made.cols, x, None, made.window, False
        grad_input = densely, weight, *views, dy, shape[2:], made.window
        grad_weight = densely, *views[:2], made.cols, dy, x, made.window
        names = size.products
        found[f"{way} {names[0]}"] = partial(conv.convolve, auto_conv.FORWARD, *forward)
        found[f"{way} {names[1]}"] = partial(conv.convolve_t, auto_conv.GRAD_INPUT, *grad_input)
        found[f"{way} {names[2]}"] = partial(conv.convolve_grad_weight, auto_conv.GRAD_WEIGHT, *grad_weight)
    weight, padding = matrix.view(made.weight_shape), made.padding
    found[f"dense {size.products[0]}"] = partial(torch.conv2d, x, weight, padding=padding)
    found[f"dense {size.products[1]}"] = partial(conv2d_input, shape, weight, dy, padding=padding)
    found[f"dense {size.products[2]}"] = partial(conv2d_weight, x, made.weight_shape, dy, padding=padding)
    return found


def _always(answer: bool, made: Conv2d, pixels: int) -> bool:
    return answer


def contenders_nm24(size: Size, dtype: torch.dtype, device: str) -> Functions:
    """The same for 2:4, a dense weight with transposable tiles: by its kernels, or unpacked."""
    if device == "cuda" and dtype.itemsize > 2:
        return {}  # a GPU has 2:4 products for 16 bits alone
    x, matrix = (torch.randn(n, size.width, device=device).to(dtype) for n in (size.tokens, size.width))
    ids = Nm24Pattern.select(matrix, matrix.numel() // 2, rule="transposable").ids
    values, values_t, ids_t = nm24.nm24_pack(matrix, ids, True, dtype)
    return {
        f"sparse {FORWARD}": lambda: nm24.nm24_gemm.call(values, ids, x, None),
        f"unpacked {FORWARD}": lambda: x @ nm24.nm24_unpack.call(values, ids, size.width).t(),
        f"sparse {GRAD_INPUT}": lambda: nm24.nm24_gemm.call(values_t, ids_t, x, None),
        f"unpacked {GRAD_INPUT}": lambda: x @ nm24.nm24_unpack.call(values, ids, size.width),
        f"dense {FORWARD}": lambda: x @ matrix.t(),
        f"dense {GRAD_INPUT}": lambda: x @ matrix,
    }


def crossing(densities: tuple[float, ...], ratios: list[float]) -> float:
    """The density at which sparse over dense time reaches 1: if that is never, 1; if it is from the start, the first."""
    for (d0, r0), (d1, r1) in pairwise(zip(densities, ratios, strict=True)):
        if r0 < 1 <= r1:
            return d0 * (d1 / d0) ** (math.log(1 / r0) / math.log(r1 / r0))
    return 1.0 if ratios[-1] < 1 else densities[0]


def _crossings(names: Iterable[str], seconds: dict[str, float], densities: tuple[float, ...]) -> dict[str, float]:
    found = {}
    for name in names:
        ratios = [seconds[f"{density} {name}"] / seconds[f"unpacked {name}"] for density in densities]
        found[name] = crossing(densities, ratios)
    return found


def crossings(seconds: dict[str, float], densities: tuple[float, ...] = DENSITIES["cpu"]) -> dict[str, float]:
    """{product: density} of the times of `contenders`; "storage" compares all three products with those at full length."""
    found = _crossings(auto.PRODUCTS, seconds, densities)
    masked = sum(seconds[f"masked {name}"] for name in auto.PRODUCTS)
    steps = [sum(min(seconds[f"{d} {name}"], seconds[f"unpacked {name}"]) for name in auto.PRODUCTS) for d in densities]
    return {**found, auto.STORAGE: crossing(densities, [step / masked for step in steps])}


def crossings_nm24(seconds: dict[str, float]) -> dict[str, float]:
    """The same of `contenders_nm24`: the density is always a half, so that one way is faster."""
    names = (FORWARD, GRAD_INPUT) if seconds else ()
    return {name: float(seconds[f"sparse {name}"] < seconds[f"unpacked {name}"]) for name in names}


def ratios(name: str, seconds: dict[str, float], densities: Iterable[float]) -> dict[str, list[list[float]]]:
    """{"ratios": [[density, sparse time over dense], ...]} of a product; of one that is no single product, nothing."""
    if f"dense {name}" not in seconds:
        return {}
    sparse = [(0.5, f"sparse {name}"), *((density, f"{density} {name}") for density in densities)]  # 2:4 has one density
    return {"ratios": [[d, round(seconds[way] / seconds[f"dense {name}"], 3)] for d, way in sparse if way in seconds]}


def measured(size: Size | Images, dtype: torch.dtype, device: str, budget_s: float) -> Iterator[dict[str, Any]]:
    """The rows of one size, on a CPU with the present number of threads."""
    threads, densities = {"threads": torch.get_num_threads()} if device == "cpu" else {}, DENSITIES[device]
    ways: list[tuple[Callable[..., Functions], Callable[[dict[str, float]], dict[str, float]]]]
    if isinstance(size, Images):
        ways = [(contenders_conv, partial(_crossings, size.products, densities=densities))]
    else:
        ways = [(contenders, partial(crossings, densities=densities)), (contenders_nm24, crossings_nm24)]
    for make, evaluate in ways:
        functions = make(size, dtype, device)
        budget = budget_s / len(ways)
        timings = interleaved(functions, device=device, budget_s=budget, turn_s=0.0, least=3) if functions else {}
        seconds = {way: timing.median_s for way, timing in timings.items()}
        for name, density in evaluate(seconds).items():
            yield {
                "device": auto.device_name(torch.device(device)),
                "dtype": str(dtype).removeprefix("torch."),
                "product": name,
                **threads,
                "tokens": size.tokens,
                "positions": size.positions,
                "density": round(density, 3),
                **ratios(name, seconds, densities),
            }


def update(path: Path, rows: list[dict[str, Any]]) -> None:
    """Puts rows in the place of those of the same device, dtype and product; in a new file if there is none."""

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["device"], row["dtype"], row["product"]

    new = {key(row) for row in rows}
    # A corrupt table, of which `auto.load` has warned, is replaced.
    kept = [row for row in (json.loads(path.read_text()) if auto.load(path) else []) if key(row) not in new]
    lines = ",\n".join("  " + json.dumps(row) for row in [*kept, *rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"[\n{lines}\n]\n")


def _progress(done: int, total: int, what: str) -> None:
    """A bar, on a terminal in place."""
    bar = "#" * (30 * done // total)
    sys.stderr.write(f"\r[{bar:<30}] {done}/{total} {what:<40}" + ("\n" if done == total or not sys.stderr.isatty() else ""))
    sys.stderr.flush()


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sparse_ext calibrate", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, nargs="+", help="default: 1, and as many as torch uses")
    parser.add_argument("--seconds", type=float, default=60.0, help="about so long in all; large sizes may take longer")
    parser.add_argument("--out", type=Path, default=auto.own_table(), help="default: %(default)s")
    return parser.parse_args(arguments)


def command(arguments: list[str]) -> None:
    """Measures, shows how far it is, and writes the table."""
    options = parse(arguments)
    keep_memory()
    update(options.out, [])  # what cannot be written is known before the measurement
    threads = torch.get_num_threads()
    counts = options.threads or (sorted({1, threads}) if options.device == "cpu" else [threads])
    runs: list[tuple[str, int, Size | Images]] = list(
        product(options.dtypes, counts, (*SIZES[options.device], *IMAGES[options.device]))
    )
    rows: list[dict[str, Any]] = []
    for done, (dtype, count, size) in enumerate(runs):
        _progress(done, len(runs), f"{dtype}, {size}, {count} threads")
        torch.set_num_threads(count)
        rows += measured(size, getattr(torch, dtype), options.device, options.seconds / len(runs))
    torch.set_num_threads(threads)
    _progress(len(runs), len(runs), "")
    update(options.out, rows)
    print(f'{len(rows)} crossovers of {rows[0]["device"]} in {options.out}; layout="auto" reads them from the next start on')

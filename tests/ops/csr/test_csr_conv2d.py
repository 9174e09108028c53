"""Every way that images and kernels can lie across lanes, bands, tiles of pixels and phases of a stride."""

from dataclasses import dataclass

import pytest
import torch
from cases import CONV, INDEX_DTYPES, TOLERANCE, assert_agrees, expected, name_of, operands_with

from sparse_ext.ops import OPS, CsrPattern, reference

OPERATOR = "csr_conv2d"


@dataclass(frozen=True)
class Case:
    """A convolution, as torch.nn.functional.conv2d counts."""

    x: tuple[int, int, int, int]
    rows: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    density: float = 0.4

    def __str__(self) -> str:
        return "-".join("x".join(map(str, sizes)) for sizes in (self.x, self.kernel, self.stride, self.padding)) + (
            f"-d{self.dilation[0]}{self.dilation[1]}-g{self.groups}-o{self.rows}-{self.density:g}"
        )

    @property
    def window(self):
        return self.kernel, self.stride, self.padding, self.dilation, self.groups


# A register holds 2 to 16 images or pixels; 8 or 16 are summed at a time; tiles of planes hold 64 KB or more, chunks of rows
# 2 MB.
CASES = (
    Case((16, 3, 9, 9), 5, (3, 3), padding=(1, 1)),  # whole registers of images
    Case((17, 2, 5, 17), 4, (3, 3), padding=(1, 1)),  # one image more; a row of three tiles
    Case((1, 2, 23, 6), 3, (5, 3), padding=(2, 0)),  # one image in bands of rows, the last one shorter
    Case((3, 2, 4, 4), 3, (1, 1)),
    Case((2, 3, 7, 5), 4, (7, 5)),  # a result of one pixel
    Case((2, 2, 1, 1), 3, (3, 3), padding=(3, 2)),  # hardly anything but padding
    Case((5, 4, 11, 8), 6, (3, 3), (2, 2), (1, 1)),  # four phases
    Case((5, 4, 10, 9), 6, (1, 1), (2, 2), groups=2),  # phases that no tap meets
    Case((4, 6, 13, 12), 6, (3, 2), (3, 2), (2, 1), (1, 2), groups=3),
    Case((2, 4, 12, 40), 2, (2, 9), (1, 9), (0, 4), (2, 1), groups=2),  # more phases than registers
    Case((6, 6, 8, 8), 12, (3, 3), (1, 1), (1, 1), groups=6),  # depthwise
    Case((2, 200, 4, 4), 33, (3, 3), padding=(1, 1), density=0.05),  # tiles of planes, panels of rows
    Case((2, 37, 6, 5), 300, (3, 3), (2, 1), (1, 1), density=0.1),
    Case((16, 24, 50, 60), 3, (3, 3), padding=(1, 1), density=0.05),  # chunks of rows
    Case((3, 4, 6, 6), 4, (3, 3), padding=(1, 1), density=0.0),
    Case((0, 3, 6, 6), 4, (3, 3), padding=(1, 1)),
    Case((2, 3, 0, 5), 4, (1, 2), padding=(1, 0)),  # nothing but padding
    Case((2, 3, 6, 7), 4, (2, 1), (2**40, 3)),  # a stride that nothing follows
    Case((2, 3, 9, 8), 5, (1, 1), (3, 2)),
    Case((3, 3, 5, 6), 4, (1, 1), (7, 7)),  # one pixel of many
    Case((2, 3, 6, 4), 4, (1, 1), (1, 9)),  # one column
    Case((2, 3, 6, 4), 4, (1, 1), (9, 1)),  # one row
    Case((3, 20, 12, 16), 37, (1, 1)),  # stretches of whole registers, entries enough to be folded several times
)


def arguments(case, device, dtype, index=torch.int32):
    """{operator: its arguments}; values are multiples of 1/8."""
    generator = torch.Generator().manual_seed(0)

    def values(*size):
        return ((torch.randn(size, generator=generator) * 8).round() / 8).to(device, dtype)

    cols = case.x[1] // case.groups * case.kernel[0] * case.kernel[1]
    mask = torch.rand(case.rows, cols, generator=generator) < case.density
    pattern = CsrPattern.from_mask(mask.to(device), int(mask.sum()) + 2)
    operands, weight = operands_with(pattern, index), values(pattern.capacity)
    x, bias, index = values(*case.x), values(case.rows), (pattern.row_ptr, operands.col_idx)
    dy = values(*reference.csr_conv2d(weight, *index, cols, x, bias, *case.window).shape)
    return {
        "csr_conv2d": (weight, *index, cols, x, bias, *case.window, True),
        "csr_conv2d_t": (weight, *index, *operands[2:], dy, case.x[2:], *case.window),
        "csr_conv2d_grad_weight": (*index, cols, dy, x, *case.window),
    }


@pytest.mark.parametrize("index", INDEX_DTYPES, ids=name_of)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("op", CONV)
def test_agrees_with_its_twin(op, case, index, device, dtype):
    assert_agrees(op, arguments(case, device, dtype, index)[op], dtype)


@pytest.mark.parametrize("case", [CASES[1], CASES[2], CASES[6], CASES[-1]], ids=str)
@pytest.mark.parametrize("op", CONV)
def test_same_bits_for_any_thread_count(op, case, device, dtype):
    """Values that add up with rounding, and enough of them for three threads."""
    big = Case((9, 24, *case.x[2:]), 20, *case.window[:-1])
    given = [a * 1.1 if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in arguments(big, device, dtype)[op]]
    assert_same_for_any_thread_count(op, given)


@pytest.mark.parametrize("op", CONV)
def test_same_bits_where_threads_share_a_stretch(op, device, dtype):
    assert_same_for_any_thread_count(op, arguments(Case((1, 200, 8, 16), 160, (1, 1), density=0.1), device, dtype)[op])


def assert_same_for_any_thread_count(op, given):
    outcomes = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        outcomes.append(OPS[op](*given))
    assert all(torch.equal(outcomes[0], outcome) for outcome in outcomes[1:])


# More than 8 MB are written past the caches of a CPU: stretches of planes; whole cache lines of 16 images; and of bands of few.
LARGE = {
    "csr_conv2d": (
        Case((2, 3, 256, 128), 36, (1, 1)),
        Case((16, 2, 56, 56), 48, (3, 3), padding=(1, 1)),
        Case((3, 2, 256, 56), 52, (3, 3), padding=(1, 1)),
    ),
    "csr_conv2d_t": (Case((16, 48, 56, 56), 2, (3, 3), padding=(1, 1)),),
}


@pytest.mark.parametrize(("op", "case"), [(op, case) for op, cases in LARGE.items() for case in cases], ids=str)
@pytest.mark.only("written past its caches by a CPU", lambda case: case.kind == "cpu" and case.dtype.itemsize > 2)
def test_a_result_that_no_cache_keeps(op, case, device, dtype):
    """The activations are not aligned to registers."""
    given = list(arguments(case, device, dtype)[op])
    place = next(i for i, argument in enumerate(given) if isinstance(argument, torch.Tensor) and argument.dim() == 4)
    given[place] = torch.cat([given[place].new_zeros(1), given[place].flatten()])[1:].view(given[place].shape)
    found = OPS[op](*given)
    assert found.nbytes > 8 << 20
    torch.testing.assert_close(found, getattr(reference, op)(*given), **TOLERANCE[dtype])


POISONED = {"csr_conv2d": ("x", "weight"), "csr_conv2d_t": ("dy", "weight"), "csr_conv2d_grad_weight": ("dy", "x")}


@pytest.mark.parametrize("case", [CASES[1], CASES[2], CASES[6], CASES[8], CASES[9], CASES[11], CASES[-1]], ids=str)
@pytest.mark.parametrize(("op", "poisoned"), [(op, name) for op in CONV for name in POISONED[op]])
def test_inf_and_nan_go_where_an_entry_takes_them(op, poisoned, case, device, dtype):
    """Never to where an entry meets padding; nor, of rows of x that no output meets, anywhere."""
    given = arguments(case, device, dtype)[op]
    place = [argument.name for argument in OPS[op].call._schema.arguments].index(poisoned)
    flat = given[place].view(-1)
    for first, number in ((0, "inf"), (23, "-inf"), (59, "nan")):
        flat[first::101] = float(number)
    flat[-1] = float("inf")
    assert expected(op, given).isfinite().any()
    assert_agrees(op, given, dtype)


BAD = {
    "wrong channels": ({"x": (2, 4, 9, 9)}, r"expected x \[batch, 3, height, width\], got shape \(2, 4, 9, 9\)"),
    "no batch": ({"x": (3, 9, 9)}, r"expected x \[batch, 3, height, width\], got shape \(3, 9, 9\)"),
    "a kernel larger than the padded input": ({"x": (2, 3, 9, 0)}, r"expected x of at least 3 x 3 pixels .*, got 11 x 2"),
    "groups that do not divide": ({"groups": 2}, "expected groups to divide the 5 output channels, got 2"),
    "negative padding": ({"padding": (-1, 0)}, r"expected padding to be two numbers of at least 0, got \(-1, 0\)"),
    "no stride": ({"stride": (0, 1)}, r"expected stride to be two numbers of at least 1, got \(0, 1\)"),
    "another kernel": ({"kernel": (2, 2)}, r"expected a weight with a multiple of 4 columns \(kernel \(2, 2\)\), got 27"),
}


@pytest.mark.parametrize("why", BAD)
def test_what_does_not_fit_is_refused(why):
    changes, sentence = BAD[why]
    given = arguments(CASES[0], "cpu", torch.float32)[OPERATOR]
    weight, *index, cols, x, bias, kernel, stride, padding, dilation, groups, _ = given
    given = {"x": x.shape, "kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    size, *window = (given | changes).values()
    with pytest.raises(ValueError, match=f"csr_conv2d: {sentence}"):
        OPS["csr_conv2d"](weight, *index, cols, torch.zeros(size), bias, *window)


def test_images_of_too_many_elements_are_refused():
    row_ptr, col_idx = torch.zeros(2, dtype=torch.int32), torch.zeros(0, dtype=torch.int32)
    x = torch.zeros(1).expand(1, 1, 1 << 16, 1 << 16)
    with pytest.raises(ValueError, match="expected at most 2147418112 elements in an image with its padding, got 4294967296"):
        OPS["csr_conv2d"](torch.zeros(0), row_ptr, col_idx, 1, x, None, (1, 1), (1, 1), (0, 0), (1, 1), 1)

"""Coverage: exact, whatever its form is, and in memory proportional to what was ever in use."""

from pathlib import Path

import pytest
import torch
from torch import nn

import sparse_ext as sx
from sparse_ext.ops import CsrPattern
from sparse_ext.train.coverage import Coverage

MIB = 1 << 20
STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def pattern(rows, cols, at, capacity=None):
    mask = torch.zeros(rows * cols, dtype=torch.bool)
    mask[at] = True
    return CsrPattern.from_mask(mask.view(rows, cols), capacity)


def positions(coverage):
    """Those in its state."""
    state = coverage.state()
    if state.dtype == torch.int64:
        return state.tolist()
    return [at for at in range(8 * state.numel()) if int(state[at // 8]) >> at % 8 & 1]


def test_few_positions_are_listed_and_many_are_bits():
    """Of 1000 positions: 125 bytes of bits, so up to 15 positions of 8 bytes each."""
    coverage = Coverage(pattern(10, 100, [3, 999]), 4)
    assert coverage.state().tolist() == [3, 999]
    coverage.add(pattern(10, 100, [3, 500], capacity=4))
    assert coverage.state().tolist() == [3, 500, 999]
    more = list(range(100, 113))
    coverage.add(pattern(10, 100, more))
    assert coverage.state().dtype == torch.uint8
    assert positions(coverage) == sorted([3, 500, 999, *more])
    assert coverage.count() == 16
    coverage.add(pattern(10, 100, [0, 3]))
    assert coverage.count() == 17


def test_a_long_weight_has_bits_at_once():
    """They wait for no device."""
    assert Coverage(pattern(10, 100, [3, 999]), 1000).state().dtype == torch.uint8


@pytest.mark.parametrize("after", [[1], list(range(40))], ids=["few", "many"])
@pytest.mark.parametrize("before", [[5, 7], list(range(3, 50))], ids=["few", "many"])
def test_a_state_loads_into_either_form(before, after):
    saved, coverage = Coverage(pattern(10, 100, before), len(before)), Coverage(pattern(10, 100, after), len(after))
    coverage.load(saved.state())
    assert positions(coverage) == before
    assert coverage.state().dtype == saved.state().dtype
    coverage.add(pattern(10, 100, after))
    assert positions(coverage) == sorted({*before, *after})


def test_version_1_padded_rows():
    """[rows, ceil(cols / 8)]; here 3 x 5 with positions (0, 4) and (2, 0)."""
    coverage = Coverage(pattern(3, 5, [0]), 1)
    coverage.load(torch.tensor([[0b10000], [0], [1]], dtype=torch.uint8))
    assert positions(coverage) == [4, 10]


BAD = {
    "too short": (torch.zeros(3, dtype=torch.uint8), r"torch.uint8 of shape \(3,\)"),
    "beyond the last": (torch.tensor([4, 240]), r"\[4, 240\]"),
    "negative": (torch.tensor([-1]), r"\[-1\]"),
    "not ascending": (torch.tensor([5, 5]), r"\[5, 5\]"),
    "a matrix": (torch.tensor([[1, 2]]), r"torch.int64 of shape \(1, 2\)"),
    "floats": (torch.ones(30), r"torch.float32 of shape \(30,\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_coverage_is_refused(name):
    model = nn.Sequential(sx.SparseLinear(12, 20, sparsity=0.99))
    sparsifier = sx.Sparsifier(model, torch.optim.SGD(model.parameters(), lr=0.1), sx.RigL(), total_steps=9)
    state = sparsifier.state_dict()
    coverage, got = BAD[name]
    message = f"expected coverage of '0' as 30 bytes of bits, or as ascending positions below 240, got {got}"
    with pytest.raises(ValueError, match=message):
        sparsifier.load_state_dict({**state, "coverage": {"0": coverage}})


def peak(function):
    """Bytes that the process grew by, at most, while this ran."""
    REFERENCES.write_text("5")  # forgets the present peak

    def bytes_of(field):
        (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) << 10

    before = bytes_of("VmRSS")
    function()
    return bytes_of("VmHWM") - before


@pytest.mark.skipif(not REFERENCES.exists(), reason="/proc is Linux's")
def test_memory_is_that_of_what_is_in_use(monkeypatch):
    """8192 weights of 8192 x 8192: 32 KiB. The matrix has 8 MiB of bits; of the dense gradient a tile of 8 MiB is computed."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # it would touch what is not in use
    size, made = 8192, []
    with torch.device("meta"):
        layer = sx.SparseLinear(size, size, bias=False, sparsity=1 - 1 / size)
    columns = torch.arange(size, dtype=torch.int32)
    rows = torch.arange(size + 1, dtype=torch.int32)
    layer.load_state_dict({"weight": torch.rand(size), "row_ptr": rows, "col_idx": columns}, assign=True)
    model, x = nn.Sequential(layer), torch.rand(1, size)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = sx.RigL(update_interval=2, t_end=1.0)

    def train():
        for step in (1, 2):
            model(x).sum().backward()
            optimizer.step()
            assert made[0].step() == (step == 2)

    assert peak(lambda: made.append(sx.Sparsifier(model, optimizer, method, total_steps=9))) < 3 * MIB
    assert peak(train) < 13 * MIB
    assert peak(lambda: made[0].report()) < 3 * MIB
    assert peak(lambda: made.append(made[0].state_dict())) < 3 * MIB
    assert made[0].report().layers[0].coverage * size * size > size

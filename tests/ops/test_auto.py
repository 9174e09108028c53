"""The table of measured crossovers: which row counts, and what the one that ships holds."""

import re
from pathlib import Path

import pytest
import torch

from sparse_ext.ops import auto
from sparse_ext.ops.nm24.auto import FORWARD, GRAD_INPUT

ROWS = ((1000, 100, 0.8), (10, 10000, 0.6), (10, 100, 0.4))


@pytest.mark.parametrize(
    ("tokens", "positions", "density"),
    [(1000, 100, 0.8), (101, 100, 0.8), (99, 100, 0.4), (10, 1100, 0.6), (10, 900, 0.4), (0, 1, 0.4), (9000, 9000, 0.8)],
)
def test_the_nearest_size_counts(monkeypatch, tokens, positions, density):
    key = (auto.device_name(torch.device("cpu")), torch.float32, "matmul")
    monkeypatch.setattr(auto, "TABLE", {key: ROWS})
    x, entries = torch.empty(tokens, 1), density * positions
    assert not auto.dense_is_faster("matmul", x, 1, positions, entries)
    assert auto.dense_is_faster("matmul", x, 1, positions, entries + 1)
    assert not auto.dense_is_faster("matmul_t", x, 1, positions, positions)  # not in the table
    assert not auto.dense_is_faster("matmul", x.double(), 1, positions, positions)


def test_the_table_that_ships():
    path = Path(auto.__file__).with_name("crossover.json")
    for (device, dtype, product), rows in auto.load(path).items():
        assert re.fullmatch(r"cpu (baseline|v3|v4|v4_bf16)( amx)?|cuda \d+\.\d", device)
        assert isinstance(dtype, torch.dtype)
        assert product in (*auto.PRODUCTS, FORWARD, GRAD_INPUT)
        lowest = 0 if product in (FORWARD, GRAD_INPUT) else 1e-6
        assert all(tokens > 0 and positions > 0 and lowest <= density <= 1 for tokens, positions, density in rows)

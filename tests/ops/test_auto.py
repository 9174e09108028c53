"""The policy of layout="auto": which row counts, what stands in for a missing one, and what the table that ships holds."""

import re

import pytest
import torch

from sparse_ext.ops import auto
from sparse_ext.ops.auto import Policy, Row
from sparse_ext.ops.csr import auto_conv
from sparse_ext.ops.nm24.auto import FORWARD, GRAD_INPUT

CPU = torch.device("cpu")
ROWS = (Row(1000, 100, 0, 0.8), Row(10, 10000, 0, 0.6), Row(10, 100, 0, 0.4))


def policy(rows, device=None, dtype=torch.float32, product="matmul"):
    return Policy({(device or auto.device_name(CPU), dtype, product): rows})


@pytest.mark.parametrize(
    ("tokens", "positions", "density"),
    [(1000, 100, 0.8), (101, 100, 0.8), (99, 100, 0.4), (10, 1100, 0.6), (10, 900, 0.4), (0, 1, 0.4), (9000, 9000, 0.8)],
)
def test_the_nearest_size_counts(tokens, positions, density):
    x, entries = torch.empty(tokens, 1), density * positions
    assert not policy(ROWS).is_dense("matmul", x, 1, positions, entries)
    assert policy(ROWS).is_dense("matmul", x, 1, positions, entries + 1)
    assert not policy(ROWS).is_dense("matmul_t", x, 1, positions, positions)  # not in the table


@pytest.mark.parametrize(("threads", "density"), [(1, 0.2), (2, 0.5), (3, 0.5), (64, 0.9)])
def test_the_nearest_number_of_threads_counts(threads, density, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    rows = policy((Row(10, 100, 1, 0.2), Row(10, 100, 2, 0.5), Row(10, 100, 16, 0.9)))
    x = torch.empty(10, 1)
    assert [rows.is_dense("matmul", x, 1, 100, 100 * density + more) for more in (0, 1)] == [False, True]


@pytest.mark.parametrize(
    ("name", "known", "serving"),
    [
        ("cpu v3", ["cpu v4", "cpu v3"], "cpu v3"),
        ("cpu v4", ["cpu v3", "cpu v4_bf16 amx"], "cpu v3"),
        ("cpu v4_bf16 amx", ["cpu v3", "cpu v4_bf16"], "cpu v4_bf16"),
        ("cpu baseline", ["cpu v4", "cuda 9.0"], "cpu v4"),
        ("cuda 9.0", ["cuda 8.0", "cuda 10.0", "cpu v4"], "cuda 8.0"),
        ("cuda 10.0", ["cpu v3"], None),
    ],
)
def test_the_nearest_device_stands_in(name, known, serving):
    table = {(one, torch.float32, "matmul"): (Row(1, 1, 0, at / 10),) for at, one in enumerate(known)}
    found = Policy(table).rows(name, torch.float32, "matmul")
    assert found == ((serving, table[serving, torch.float32, "matmul"]) if serving else (name, ()))


def test_float32_stands_in_for_other_dtypes():
    own = policy(ROWS).table | policy(ROWS[:1], dtype=torch.bfloat16).table
    for dtype, rows in ((torch.float64, ROWS), (torch.bfloat16, ROWS[:1])):
        assert Policy(own).rows(auto.device_name(CPU), dtype, "matmul")[1] == rows


def test_the_storage_is_one_that_no_number_of_tokens_makes_slower():
    rows = (Row(16, 100, 0, 0.6), Row(512, 100, 0, 0.4), Row(16, 10000, 0, 0.8))
    table = policy(rows, product=auto.STORAGE)
    for positions, nnz, chosen in ((100, 40, "few"), (100, 41, "many"), (10000, 8000, "few"), (10000, 8001, "many")):
        choice = table.storage("few", "many", positions, nnz, torch.float32, CPU)
        assert choice.chosen == chosen
        assert re.fullmatch(r"\d+% zeros; sparse storage is faster from (60|20)% on, as measured on cpu \w+", choice.reason)


def test_a_choice_says_what_stood_in_for_what():
    device = next(name for name in auto.CPUS if name != auto.device_name(CPU))
    table = policy(ROWS, device, product=auto.STORAGE)
    reason = table.storage("few", "many", 100, 40, torch.float32, CPU).reason
    assert reason.endswith(f"as measured on {device}, the nearest to {auto.device_name(CPU)}")
    reason = Policy({}).storage("few", "many", 100, 99, torch.float32, CPU)
    assert reason == ("few", f"nothing was measured on {auto.device_name(CPU)}: `python -m sparse_ext calibrate` does")


@pytest.mark.parametrize("text", ["{", "[1]", '[{"device": "cpu v3"}]', '[{"dtype": "float33"}]', '{"a": 1}'])
def test_a_corrupt_table_is_left_out_with_a_sentence(text, tmp_path):
    (path := tmp_path / "crossover.json").write_text(text)
    with pytest.warns(UserWarning, match="expected a table as `python -m sparse_ext calibrate` writes it, got"):
        assert auto.load(path) == {}
    assert auto.load(tmp_path / "none.json") == {}


def test_whose_table_is_read(monkeypatch, tmp_path):
    monkeypatch.delenv("SPARSE_EXT_CROSSOVER", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert auto.own_table() == tmp_path / "sparse_ext" / "crossover.json"
    monkeypatch.setenv("SPARSE_EXT_CROSSOVER", "mine.json")
    assert str(auto.own_table()) == "mine.json"
    for name in ("SPARSE_EXT_CROSSOVER", "XDG_CONFIG_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    assert auto.load(auto.own_table()) == {}  # no home is no error


def test_the_table_that_ships():
    table = auto.load(auto.SHIPPED)
    convolutions = {auto_conv.in_table(name, (k, k)) for name in auto_conv.PRODUCTS for k in (1, 3)}
    known = {*auto.PRODUCTS, auto.STORAGE, FORWARD, GRAD_INPUT, *convolutions}
    assert auto.STORAGE in {product for *_, product in table}
    for (device, _, product), rows in table.items():
        assert device in auto.CPUS or re.fullmatch(r"cuda \d+\.\d", device)
        assert product in known
        assert all(row.density > 0 for row in rows if product in (*auto.PRODUCTS, auto.STORAGE))

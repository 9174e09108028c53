"""Predicted speed: by hand, from a table of the test's own."""

import pytest
import torch
from torch import nn

import sparse_ext as sx
from sparse_ext.forecast.seconds import at
from sparse_ext.ops import LAYOUTS, Conv2d, Linear, auto

CPU = auto.device_name(torch.device("cpu"))
RATIOS = ((0.1, 0.2), (0.2, 0.4), (0.4, 1.2))


@pytest.mark.parametrize(
    ("density", "ratio"),
    [(0.1, 0.2), (0.2, 0.4), (0.15, 0.3), (0.2 * 2**0.5, 0.4 * 3**0.5), (0.8, 3.6), (0.01, 0.2)],
    ids=["first", "second", "in proportion", "half-way", "above the last", "below the first"],
)
def test_between_two_densities_the_ratio_is_a_power_of_the_density(density, ratio):
    assert at(RATIOS, density) == pytest.approx(ratio)


def test_one_ratio_serves_every_density():
    assert at(((0.5, 0.8),), 0.3) == at(((0.5, 0.8),), 0.9) == 0.8


def row(name, ratios, tokens=64, positions=400, device=CPU, crossover=1.0, dtype="float32"):
    return {
        "device": device, "dtype": dtype, "product": name, "tokens": tokens, "positions": positions, "density": crossover,
        "ratios": ratios,
    }  # fmt: skip


def table(monkeypatch, *rows):
    monkeypatch.setattr(auto.POLICY, "table", auto.read(rows))


def one(layout="csr", sparsity=0.8, tokens=64, model=None, **choices):
    model = nn.Sequential(nn.Linear(20, 20)) if model is None else model
    return sx.estimate(model, sparsity, layout, tokens=tokens, distribution="uniform", **choices)


THREE = dict(zip(auto.PRODUCTS, ([[0.2, 0.3]], [[0.2, 0.6]], [[0.2, 0.9]]), strict=True))


def test_a_step_is_the_mean_of_its_products(monkeypatch):
    table(monkeypatch, *(row(name, ratios) for name, ratios in THREE.items()))
    found = one()
    speed = found.layers[0].speed
    assert (speed.forward, speed.grad_input, speed.grad_weight, speed.why) == (0.3, 0.6, 0.9, None)
    assert speed.step == found.model.speed.step == pytest.approx(0.6)
    assert f"as measured on {CPU}, at the nearest measured size" in found.notes[0]
    assert "0.60 of the seconds of dense" in found.conclusion


def test_the_whole_model_is_weighted_by_dense_flops(monkeypatch):
    """A layer of 400 positions at 0.6, and a dense one of 100."""
    table(monkeypatch, *(row(name, ratios) for name, ratios in THREE.items()))
    found = one(model=nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 5)), exclude=["1"])
    assert found.model.speed.step == pytest.approx((400 * 0.6 + 100 * 1) / 500)


def test_the_nearest_size_serves(monkeypatch):
    rows = [row(name, [[0.2, 0.5]], tokens, size) for name in auto.PRODUCTS for tokens, size in ((64, 400), (640, 400))]
    rows += [row(name, [[0.2, 0.25]], 64, 40000) for name in auto.PRODUCTS]
    table(monkeypatch, *rows)
    assert one().model.speed.step == 0.5
    assert one(model=nn.Sequential(nn.Linear(150, 150))).model.speed.step == 0.25


def test_above_the_crossover_auto_takes_as_long_as_there(monkeypatch):
    """Where "csr" takes 0.8, at a density of 0.4, "auto" takes what the crossover at 0.25 has."""
    table(monkeypatch, *(row(name, [[0.2, 0.4], [0.4, 0.8]], crossover=0.25) for name in auto.PRODUCTS))
    assert one("csr", 0.6).layers[0].speed.step == pytest.approx(0.8)
    assert one("auto", 0.6).layers[0].speed.step == pytest.approx(0.5)


def test_the_nearest_instruction_set_serves_and_is_named(monkeypatch):
    table(monkeypatch, *(row(name, ratios, device="cpu baseline") for name, ratios in THREE.items()))
    found = one(device="cpu v4")
    assert found.model.speed.step == pytest.approx(0.6)
    assert "as measured on cpu baseline, the nearest to cpu v4" in found.notes[0]


def test_a_gpu_is_not_predicted_from_a_cpu(monkeypatch):
    other = row("conv2d", [], device="cuda 9.0")
    del other["ratios"]
    table(monkeypatch, *(row(name, ratios) for name, ratios in THREE.items()), other)
    found = one(device="cuda 9.0")
    assert found.model.speed.step is None
    assert "the table of measurements has no ratios of a cuda 9.0" in found.notes[0]
    assert found.conclusion.endswith("Unknown: seconds.")


def test_crossovers_alone_predict_no_speed(monkeypatch):
    rows = [row(name, []) for name in auto.PRODUCTS]
    table(monkeypatch, *({key: value for key, value in one.items() if key != "ratios"} for one in rows))
    found = one()
    assert found.model.speed.step is None
    assert f"has no ratios of a {CPU}; `python -m sparse_ext calibrate` measures" in found.notes[0]


def test_what_was_not_measured_is_none_with_a_sentence(monkeypatch):
    table(monkeypatch, *(row(name, ratios) for name, ratios in list(THREE.items())[:2]), row("nm24 matmul", [[0.5, 0.7]]))
    part = one().layers[0].speed
    assert (part.forward, part.grad_input, part.grad_weight, part.step) == (0.3, 0.6, None, None)
    assert "no ratios were measured of grad_weight in layout 'csr' (linear)" in part.why
    nm24 = one("2:4", None).layers[0].speed
    assert (nm24.forward, nm24.grad_input, nm24.step) == (0.7, None, None)
    dense_weight = one("csr", method="top-kast")
    assert "nothing was measured of a dense weight in layout 'csr'" in dense_weight.layers[0].speed.why
    assert any("speed is unknown in part" in note for note in dense_weight.notes)


PRODUCTS = (Linear(8, 8), Conv2d(8, 8, (3, 3)), Conv2d(8, 8, (1, 1)), Conv2d(8, 1, (3, 3), groups=8))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("product", PRODUCTS, ids=["linear", "3 x 3", "1 x 1", "depthwise"])
def test_kernels_name_what_the_shipped_table_has(layout, product):
    kernels = LAYOUTS[layout].products.get(type(product))
    names = (None, None, None) if kernels is None else kernels.in_table(product)
    known = {name for _, _, name in auto.load(auto.SHIPPED)}
    assert len(names) == 3
    assert set(names) - {None} <= known
    measured = layout in ("csr", "auto") or (layout == "2:4" and product is PRODUCTS[0])
    assert any(names) == (measured and product is not PRODUCTS[3])


def test_where_dense_is_better_it_says_so(monkeypatch):
    table(monkeypatch, *(row(name, [[0.2, 0.5], [0.6, 1.5]]) for name in auto.PRODUCTS))
    better = one("csr", 0.4, optimizer="sgd")
    assert better.layers[0].speed.step == pytest.approx(1.5)
    (row_,) = (one for one in better.layers if one.layout)
    assert row_.dense_is_better.startswith("dense is better here: sparse takes 1.")
    assert row_.dense_is_better.endswith("times its bytes and 1.50 times its seconds")
    assert "Sparse takes 0.60 of the FLOPs of dense. Dense is better here: sparse takes 1." in better.conclusion
    assert f"0: {row_.dense_is_better}" in str(better)
    assert one("csr", 0.9, optimizer="adamw").layers[0].dense_is_better is None

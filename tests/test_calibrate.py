"""`python -m sparse_ext calibrate`: crossovers by hand, the rows that are replaced, and a run on sizes that take no time."""

import json
import math

import pytest

from sparse_ext import calibrate
from sparse_ext.calibrate import Images, Size, crossing, crossings, update
from sparse_ext.ops import auto
from sparse_ext.ops.nm24.auto import FORWARD, GRAD_INPUT


@pytest.mark.parametrize(
    ("ratios", "density"),
    [([0.5, 0.7, 0.9], 1.0), ([1.5, 2.0, 3.0], 0.1), ([0.5, 2.0, 3.0], 0.1 * 2**0.5), ([0.1, 0.5, 1.0], 0.4)],
)
def test_crossing(ratios, density):
    assert crossing((0.1, 0.2, 0.4), ratios) == pytest.approx(density)


def test_a_step_takes_the_faster_way_of_each_product():
    seconds = {f"{density} {name}": density for density in calibrate.DENSITIES["cpu"] for name in auto.PRODUCTS}
    seconds |= {f"unpacked {name}": at for name, at in zip(auto.PRODUCTS, (0.45, 0.2, 9.0), strict=True)}
    seconds |= {f"masked {name}": 0.4 for name in auto.PRODUCTS}
    found = crossings(seconds)
    assert found == {
        "matmul": pytest.approx(0.45),
        "matmul_t": pytest.approx(0.2),
        "grad_weight": 1.0,
        # (0.45 + 0.2 + d) / 1.2 is below 1 at 0.45 and above at 0.6
        auto.STORAGE: pytest.approx(0.45 * (0.6 / 0.45) ** (math.log(1.2 / 1.1) / math.log(1.25 / 1.1))),
    }


def test_ratios_are_those_to_the_dense_product():
    seconds = {"0.1 matmul": 1.0, "0.2 matmul": 3.0, "unpacked matmul": 5.0, "dense matmul": 4.0}
    assert calibrate.ratios("matmul", seconds, (0.1, 0.2)) == {"ratios": [[0.1, 0.25], [0.2, 0.75]]}
    assert calibrate.ratios(FORWARD, {f"sparse {FORWARD}": 3.0, f"dense {FORWARD}": 2.0}, (0.1,)) == {"ratios": [[0.5, 1.5]]}
    assert calibrate.ratios(auto.STORAGE, seconds, (0.1, 0.2)) == {}


def test_crossovers_replace_those_of_the_same_device_dtype_and_product(tmp_path):
    path = tmp_path / "new" / "crossover.json"
    row = {"device": "cpu v4", "dtype": "float32", "product": "matmul", "tokens": 1, "positions": 1, "density": 0.5}
    others = [{**row, "dtype": "bfloat16"}, {**row, "device": "cpu v3"}, {**row, "product": "matmul_t"}]
    update(path, [row, *others])
    update(path, [new := {**row, "density": 0.6}])
    assert json.loads(path.read_text()) == [*others, new]


def test_what_cannot_be_written_is_known_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(calibrate, "measured", lambda *_: pytest.fail("it measures"))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        calibrate.command(["--out", str(tmp_path / "file" / "crossover.json")])


def test_a_corrupt_table_is_replaced(tmp_path):
    (path := tmp_path / "crossover.json").write_text("{")
    row = {"device": "cpu v4", "dtype": "float32", "product": "matmul", "tokens": 1, "positions": 1, "density": 0.5}
    with pytest.warns(UserWarning, match="expected a table"):
        update(path, [row])
    assert json.loads(path.read_text()) == [row]


def test_a_run(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(calibrate.SIZES, "cpu", (Size(16, 3), Size(32, 3)))
    monkeypatch.setitem(calibrate.IMAGES, "cpu", (Images(4, 3, 5, 2), Images(8, 1, 3, 1)))
    path = tmp_path / "crossover.json"
    calibrate.command(["--seconds", "0", "--threads", "1", "2", "--dtypes", "float32", "--out", str(path)])
    table = auto.load(path)
    convolutions = {name: k for k in (3, 1) for name in Images(4, k, 5).products}
    products = {*auto.PRODUCTS, auto.STORAGE, FORWARD, GRAD_INPUT, *convolutions}
    assert {product for *_, product in table} == products
    for (*_, name), rows in table.items():
        of_kernel = {3: ((50, 144),), 1: ((9, 64),)}
        sizes = of_kernel[convolutions[name]] if name in convolutions else ((3, 256), (3, 1024))
        assert [row[:3] for row in rows] == [(*size, threads) for threads in (1, 2) for size in sizes]
        densities = [] if name == auto.STORAGE else [0.5] if "nm24" in name else list(calibrate.DENSITIES["cpu"])
        assert all([density for density, _ in row.ratios] == densities for row in rows)
    out = capsys.readouterr()
    count, device = sum(map(len, table.values())), auto.device_name(calibrate.torch.device("cpu"))
    assert f"{count} crossovers of {device} in {path}" in out.out
    assert "8/8" in out.err

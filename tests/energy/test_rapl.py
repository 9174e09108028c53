"""RAPL, in a tree of files as Linux shows them."""

from pathlib import Path

import pytest

from sparse_ext.energy import EnergyMeter, ManualClock, Rapl, period

RANGE_UJ = 262143328850


def zone(folder, name, microjoules=1_000_000, range_uj=RANGE_UJ):
    folder.mkdir(parents=True)
    for file, text in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", range_uj)):
        (folder / file).write_text(f"{text}\n")
    return folder


@pytest.fixture(autouse=True)
def watching(monkeypatch):
    """Files stand still; it is of no use to watch them for long."""
    monkeypatch.setattr(period, "TIMEOUT_S", 0.01)


@pytest.fixture
def root(tmp_path):
    """Two packages, as the kernel lays them out: zones in zones, and a link to each beside them."""
    control = tmp_path / "devices" / "intel-rapl"
    for package in (0, 1):
        top = control / f"intel-rapl:{package}"
        zone(top, f"package-{package}")
        for i, name in enumerate(("core", "uncore", "dram")):
            zone(top / f"intel-rapl:{package}:{i}", name)
    root = tmp_path / "powercap"
    root.mkdir()
    for folder in (control, *control.rglob("intel-rapl:*")):
        (root / folder.name).symlink_to(folder, target_is_directory=True)
    return root


def uses(root, name, joules):
    """A zone's counter goes on."""
    file = root / name / "energy_uj"
    file.write_text(f"{(int(file.read_text()) + round(joules * 1e6)) % RANGE_UJ}\n")


def meter_of(root):
    clock = ManualClock()
    return EnergyMeter(sources=[Rapl(root)], clock=clock), clock


def test_packages_and_their_dram(root):
    """Cores are parts of their package, whose counter has them."""
    meter, clock = meter_of(root)
    with meter.window("w") as window:
        for package in (0, 1):
            for i, joules in (("", 100), (":0", 60), (":1", 10), (":2", 7)):
                uses(root, f"intel-rapl:{package}{i}", joules)
        clock.advance(2.0)
    reading = window.reading
    assert reading.joules == pytest.approx(214)
    assert {part.name: part.joules for part in reading.parts} == {
        "package-0": pytest.approx(100),
        "package-0 dram": pytest.approx(7),
        "package-1": pytest.approx(100),
        "package-1 dram": pytest.approx(7),
    }
    assert (reading.source, reading.scope, reading.estimated, reading.resolution_j) == ("RAPL", "package + DRAM", False, 1e-6)
    assert reading.mean_w == pytest.approx(107)


def test_the_platform_has_all_of_it(root):
    zone(root / "intel-rapl:2", "psys")
    meter, clock = meter_of(root)
    assert len(meter.notes) == 4
    with meter.window("w") as window:
        uses(root, "intel-rapl:0", 100)
        uses(root, "intel-rapl:2", 250)
        clock.advance(2.0)
    assert window.reading.joules == pytest.approx(250)
    assert window.reading.scope == "platform"


@pytest.mark.parametrize("layout", ["flat", "nested"])
def test_however_the_zones_lie(tmp_path, layout):
    zone(tmp_path / "intel-rapl:0", "package-0")
    zone(tmp_path / ("intel-rapl:0/" if layout == "nested" else "") / "intel-rapl:0:0", "dram")
    assert [counter.name for counter in Rapl(tmp_path).counters()] == ["package-0", "package-0 dram"]


def test_a_second_interface_to_a_package_is_not_a_second_package(root):
    zone(root / "intel-rapl-mmio" / "intel-rapl-mmio:0", "package-0", 7_000_000)
    zone(root / "intel-rapl-mmio" / "intel-rapl-mmio:0" / "intel-rapl-mmio:0:0", "dram", 7_000_000)
    counters = Rapl(root).counters()
    assert [counter.name for counter in counters] == ["package-0", "package-0 dram", "package-1", "package-1 dram"]
    assert [counter.read() for counter in counters] == [1.0] * 4


def test_dies_of_a_package(tmp_path):
    for die in (0, 1):
        zone(tmp_path / f"intel-rapl:{die}", f"package-0-die-{die}")
    assert [counter.scope for counter in Rapl(tmp_path).counters()] == ["package", "package"]


def test_a_counter_that_wraps(tmp_path):
    """5 J before its end, then 15 J on."""
    zone(tmp_path / "intel-rapl:0", "package-0", RANGE_UJ - 5_000_000)
    meter, clock = meter_of(tmp_path)
    with meter.window("w") as window:
        uses(tmp_path, "intel-rapl:0", 20)
        assert int((tmp_path / "intel-rapl:0" / "energy_uj").read_text()) == 15_000_000
        clock.advance(1.0)
    assert window.reading.joules == pytest.approx(20)


def test_a_counter_that_wraps_several_times_in_a_window(tmp_path):
    """200 W for an hour: 720 kJ, where the counter has 262."""
    zone(tmp_path / "intel-rapl:0", "package-0")
    meter, clock = meter_of(tmp_path)
    clock.every(100.0, lambda: uses(tmp_path, "intel-rapl:0", 20e3))
    meter.begin_window("w")
    clock.advance(3600.0)
    assert meter.end_window("w").joules == pytest.approx(720e3)


def test_a_user_who_may_not_read_is_told_what_to_do(root, monkeypatch):
    """As on every kernel since 2020. The tests may run as root, who may read all."""
    read_text = Path.read_text

    def refused(path, *args, **kwargs):
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refused)
    meter, clock = meter_of(root)
    assert meter.sensor is None
    assert "only root may read" in meter.why
    assert "`sudo chmod a+r /sys/class/powercap/*/energy_uj`" in meter.why
    with meter.window("w") as window:
        clock.advance(1.0)
    assert window.reading.joules is None


@pytest.mark.parametrize("folder", ["", "not there"])
def test_a_machine_without_zones(tmp_path, folder):
    meter, _ = meter_of(tmp_path / folder)
    assert "has no intel-rapl zone" in meter.why


def test_a_zone_that_disappears(root):
    meter, clock = meter_of(root)
    with meter.window("w") as window:
        for zone in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:2", "intel-rapl:1:2"):
            uses(root, zone, 10)
        (root / "intel-rapl:1" / "energy_uj").unlink()
        clock.advance(1.0)
    reading = window.reading
    assert reading.joules is None
    assert "cannot be read: No such file" in reading.why
    assert [part.joules is None for part in reading.parts] == [False, False, True, False]


def test_a_file_that_holds_no_number(root):
    (root / "intel-rapl:0" / "energy_uj").write_text("busy")
    assert "expected a number of microjoules in" in meter_of(root)[0].why

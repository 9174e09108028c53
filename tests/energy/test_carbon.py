"""Grams by codecarbon's factors: by a fake of it, and by itself where it is installed."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from sparse_ext.energy import estimate_carbon

MIXES = {"SWE": {"country_name": "Sweden", "year": 2022}, "POL": {"country_name": "Poland"}}
KG_PER_KWH = {"SWE": 0.045, "POL": 0.65}


@pytest.fixture
def codecarbon(monkeypatch):
    """Its modules, as far as they are used."""

    class DataSource:
        def get_global_energy_mix_data(self):
            return MIXES

        def get_carbon_intensity_per_source_data(self):
            return {"world_average": 475}

    class Emissions:
        def __init__(self, data_source):
            assert isinstance(data_source, DataSource)

        def get_country_emissions(self, energy, geo):
            return energy.kWh * KG_PER_KWH[geo.country_iso_code]

    def namespace(**values):
        return SimpleNamespace(**values)

    for name, contents in {
        "codecarbon": {"__version__": "3.3"},
        "codecarbon.input": {"DataSource": DataSource},
        "codecarbon.core": {},
        "codecarbon.core.emissions": {"Emissions": Emissions},
        "codecarbon.core.units": {"Energy": namespace},
        "codecarbon.external": {},
        "codecarbon.external.geography": {"GeoMetadata": namespace},
    }.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize(
    ("country", "factor", "grams", "source"),
    [
        (None, 475.0, 950.0, "codecarbon 3.3: mean of the world"),
        ("SWE", 45.0, 90.0, "codecarbon 3.3: Sweden, 2022"),
        ("POL", 650.0, 1300.0, "codecarbon 3.3: Poland, year unknown"),
    ],
)
def test_two_kilowatt_hours(codecarbon, country, factor, grams, source):
    found = estimate_carbon(7.2e6, country)
    assert (found.factor_g_per_kwh, found.grams) == (pytest.approx(factor), pytest.approx(grams))
    assert (found.source, found.estimated) == (source, True)


def test_unknown_joules_are_unknown_grams(codecarbon):
    assert estimate_carbon(None, "SWE").grams is None


@pytest.mark.parametrize("country", ["XYZ", "swe", "Sweden", ""])
def test_a_country_without_a_factor(codecarbon, country):
    """codecarbon would take the world's mean, with a line in the log."""
    with pytest.raises(ValueError, match=f"expected the three-letter code of a country that codecarbon knows, got {country!r}"):
        estimate_carbon(1.0, country)


def test_without_codecarbon(monkeypatch):
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with pytest.raises(ModuleNotFoundError, match=r"`pip install sparse_ext\[carbon\]`"):
        estimate_carbon(1.0)


def test_codecarbon_itself():
    pytest.importorskip("codecarbon.core.emissions", reason="codecarbon is not installed")
    pytest.importorskip("pandas", reason="codecarbon's pandas is not installed")
    sweden, poland, world = (estimate_carbon(3.6e6, country) for country in ("SWE", "POL", None))
    assert 0 < sweden.grams < world.grams < poland.grams
    assert sweden.grams == pytest.approx(sweden.factor_g_per_kwh)
    assert "Sweden" in sweden.source

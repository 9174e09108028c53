"""Grams of CO2 that joules stand for, by codecarbon's factors: an estimate, and never a source of joules."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Carbon:
    """An estimate: a mean factor of a grid over a year, times joules.

    Attributes:
        grams: of CO2 equivalents; None where joules are.
        factor_g_per_kwh: grams per kilowatt-hour of electricity.
        source: whose factor it is, and of what.
        estimated: always.
    """

    grams: float | None
    factor_g_per_kwh: float
    source: str
    estimated: bool = True


def estimate_carbon(joules: float | None, country: str | None = None) -> Carbon:
    """What the electricity emitted, roughly.

    Args:
        joules: as a reading has them.
        country: ISO 3166-1 alpha-3 code, such as "DEU"; None: codecarbon's mean of the world.

    Raises:
        ModuleNotFoundError: codecarbon is not installed.
        ValueError: codecarbon has no factor for that country, for which it would take the world's without saying so.
    """
    try:
        data = importlib.import_module("codecarbon.input").DataSource()
        emissions = importlib.import_module("codecarbon.core.emissions").Emissions(data)
        geography = importlib.import_module("codecarbon.external.geography")
        one_kwh = importlib.import_module("codecarbon.core.units").Energy(kWh=1.0)
        version = importlib.import_module("codecarbon").__version__
    except ImportError as error:
        raise ModuleNotFoundError(f"estimate_carbon needs codecarbon ({error}): `pip install sparse_ext[carbon]`") from None
    mixes = data.get_global_energy_mix_data()
    if country is None:
        factor, of = float(data.get_carbon_intensity_per_source_data()["world_average"]), "mean of the world"
    elif country in mixes:
        mix = mixes[country]
        place = geography.GeoMetadata(country_iso_code=country, country_name=mix["country_name"])
        factor = 1e3 * emissions.get_country_emissions(one_kwh, place)
        of = f"{mix['country_name']}, {mix.get('year', 'year unknown')}"
    else:
        raise ValueError(f"estimate_carbon: expected the three-letter code of a country that codecarbon knows, got {country!r}")
    grams = None if joules is None else joules / JOULES_PER_KWH * factor
    return Carbon(grams, factor, f"codecarbon {version}: {of}")

"""The page: one file that holds all it shows, and opens without a network."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .. import figures
from ..record import Record
from .arms import Shown, shown
from .cards import cards
from .curves import qualities
from .density import density
from .facts import arm_facts, config, facts
from .layers import layers
from .looks import css
from .memory import memory
from .swatch import swatch
from .tables import every_run, tables
from .words import printable, sentence, short

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def html(record: Record) -> str:
    """The page of a comparison, as a file of its own: plots, styles and words are in it, and nothing is loaded.

    Raises:
        ModuleNotFoundError: matplotlib is not installed; the message has the command that installs it.
    """
    record = _cleaned(record)
    arms = shown(record)
    return _TEMPLATES.get_template("page.html").render(
        record=record,
        colors=Markup(css()),
        cards=cards(record, arms),
        swatches={one.key: swatch(one.look, one.key) for one in arms},
        arm_facts={one.key: arm_facts(one.arm) for one in arms},
        arms=arms,
        tolerance=short(record.metric.tolerance),
        headline=record.headline or (record.title,),
        qualities=qualities(record, arms),
        unknown=_unknown(record),
        density=density(arms),
        layers=_layers(arms),
        memory=memory(arms),
        tables=tables(record, arms),
        every_run=every_run(record, arms),
        facts=facts(record),
        config=config(record),
    )


def _layers(arms: list[Shown]) -> list[tuple[Shown, Markup]]:
    """Of each sparse arm that has timed its layers."""
    drawn = [(one, layers(one, arms[0])) for one in arms if one.arm.method is not None]
    return [(one, plot) for one, plot in drawn if plot is not None]


def _unknown(record: Record) -> str:
    """What stands in the place of a plot that nothing is known of."""
    runs = [run for arm in record.arms for run in arm.runs]
    if all(run.score is None for run in runs):
        return sentence(figures.unknown("no score was finite"))
    return sentence(figures.unknown(next((run.energy.why for run in runs if run.energy.why), record.sensor_why)))


def _cleaned(value: Any) -> Any:
    """The same with texts that a page can hold."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, tuple | list):
        return type(value)(_cleaned(one) for one in value)
    if isinstance(value, dict):
        return {_cleaned(key): _cleaned(one) for key, one in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{one.name: _cleaned(getattr(value, one.name)) for one in fields(value)})
    return value

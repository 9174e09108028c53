"""A comparison as a Markdown page."""

from __future__ import annotations

from . import figures, table
from .record import QUANTITIES, Arm, Record


def page(record: Record) -> str:
    """The whole page, of a record that was judged."""
    head = ["arm", f"{record.metric.name}", "worse by", *QUANTITIES]
    rows = [_verdicts(arm) for arm in record.arms]
    return "\n".join([f"# {record.title}", "", *(f"{line}\n" for line in record.headline), table.markdown(head, rows), ""])


def _verdicts(arm: Arm) -> list[str]:
    """An arm's row."""
    quality = ["-" if one is None else figures.interval(one) for one in (arm.score, arm.loss)]
    return [arm.name, *quality, *(arm.verdicts[name].outcome if name in arm.verdicts else "-" for name in QUANTITIES)]

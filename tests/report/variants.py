"""Records of every kind that a page must hold: {name: how it is made}."""

from dataclasses import replace
from functools import partial

from elaborate import DENSE, RIGL, ROWS, many, rich
from records import record, with_arms

from sparse_ext.report.record import Metric
from sparse_ext.report.verdict import judged

HOSTILE = "<script>alert('$x^{')</script> & \"\x00\ud800\" 日本語 "


few = partial(rich, rows=ROWS[:3])


def one_arm():
    return rich(rows=(DENSE,))


def points():
    """A score that should be high, whose differences are a ten-thousandth of it; no tolerance."""
    one = few()
    turned = [replace(arm, runs=tuple(_as_points(run) for run in arm.runs)) for arm in one.arms]
    return judged(replace(with_arms(one, *turned), metric=Metric("points", True, 0.0)))


def _as_points(run):
    curve = tuple(replace(point, score=1000 + 1 / point.score) for point in run.curve)
    return replace(run, score=1000 + 1 / run.score, curve=curve)


def diverged():
    """One run has no score, nor has any evaluation of it; another arm has joules for some of its runs."""
    one = few()
    dense, rigl, pruned = one.arms
    lost = replace(rigl.runs[1], score=None, curve=tuple(replace(point, score=None) for point in rigl.runs[1].curve))
    unmetered = replace(pruned.runs[0], energy=replace(pruned.runs[0].energy, gross_j=None, why="the counter was reset"))
    rigl = replace(rigl, runs=(rigl.runs[0], lost, rigl.runs[2]))
    return judged(with_arms(one, dense, rigl, replace(pruned, runs=(unmetered, *pruned.runs[1:]))))


def hostile():
    one = rich(rows=(DENSE._replace(name=f"dense {HOSTILE}"), RIGL._replace(name=HOSTILE * 3, about=HOSTILE)))
    layers = tuple(replace(layer, name=HOSTILE + layer.name) for layer in one.arms[1].layers)
    arms = (one.arms[0], replace(one.arms[1], layers=layers, choices={HOSTILE: HOSTILE}))
    metric = replace(one.metric, name=HOSTILE)
    return judged(
        replace(one, title=HOSTILE, entry=HOSTILE, notes=(HOSTILE,), config={HOSTILE: [HOSTILE]}, arms=arms, metric=metric)
    )


def hundredfold():
    """One arm spends a thousandth, and has more layers than there is room for."""
    one = rich(rows=(DENSE, RIGL._replace(second=1e-4, flops=3e7, watts=1.0)))
    layers = tuple(replace(one.arms[1].layers[0], name=f"encoder.block.{i}.attention.self.query") for i in range(40))
    return judged(with_arms(one, one.arms[0], replace(one.arms[1], layers=layers)))


VARIANTS = {
    "rich": rich,
    "no joules": partial(few, joules=False),
    "two arms": lambda: judged(record(joules=True)),
    "ten arms": partial(many, 10),
    "one arm": one_arm,
    "one seed": partial(few, seeds=1),
    "no curve": partial(few, points=0),
    "points": points,
    "diverged": diverged,
    "hostile": hostile,
    "hundredfold": hundredfold,
}

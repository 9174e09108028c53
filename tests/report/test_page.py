"""The page of a comparison, as text: every record has one, all in it is escaped, and it loads nothing."""

import re
import sys
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser

import pytest
from elaborate import rich
from records import record
from variants import HOSTILE, VARIANTS

pytest.importorskip("matplotlib")

from sparse_ext.report import amounts
from sparse_ext.report import page as whole_page
from sparse_ext.report.page import arms, cards, density, layers, scores, tables, words
from sparse_ext.report.record import Interval, Metric
from sparse_ext.report.run import DensityPoint, LayerTime
from sparse_ext.report.verdict import judged


@cache
def page(name):
    return whole_page.html(VARIANTS[name]())


class Elements(HTMLParser):
    """All elements of a page, as (tag, attributes), and its texts."""

    def __init__(self, text):
        super().__init__()
        self.found, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


# Their pages take long; a browser opens them all (`make pages`).
LARGE = ("ten arms", "no curve", "points", "hundredfold")
every_variant = pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[pytest.mark.slow][: one in LARGE]) for one in VARIANTS]
)


@every_variant
def test_nothing_is_loaded(name):
    text = page(name)
    assert not re.search(r"https?:|@import|url\((?!#)|srcset|<script|<link(?! rel=\"icon\" href=\"data:,\")", text)
    for _, attributes in Elements(text).found:
        assert not {"src", "srcset", "data", "xlink:href", "onload", "onclick", "onerror"} & attributes.keys()
        assert re.match(r"#|data:,$", attributes.get("href", "#"))


@every_variant
def test_ids_are_unique_and_references_lead_somewhere(name):
    text = page(name)
    ids = [attributes["id"] for _, attributes in Elements(text).found if "id" in attributes]
    assert len(set(ids)) == len(ids)
    referred = set(re.findall(r'(?:href="|url\()#([^")]+)', text)) | set(re.findall(r'aria-labelledby="([^"]+)"', text))
    assert referred
    assert referred <= set(ids)


@every_variant
def test_the_headline_is_the_first_heading(name):
    tags = [tag for tag, _ in Elements(page(name)).found]
    assert next(tag for tag in tags if re.fullmatch(r"h\d", tag)) == "h1"
    assert tags.count("h1") == 1


@every_variant
def test_no_none_and_no_nan(name):
    """Unknown is said in words."""
    words = " ".join(Elements(page(name)).texts)
    assert not re.search(r"\bNone\b|\bnan\b|\binf\b", words)


def test_names_are_only_text():
    text = page("hostile")
    assert "<script" not in text
    assert text.encode("utf-8")
    assert "\x00" not in text
    shown = " ".join(Elements(text).texts)
    assert words.printable(HOSTILE.strip()) in shown
    assert "$x^{" in shown


def test_the_same_record_has_the_same_page():
    assert whole_page.html(VARIANTS["two arms"]()) == page("two arms")


def test_every_arm_quantity_and_figure_is_there():
    text = " ".join(" ".join(Elements(page("two arms")).texts).split())
    for said in ("RigL", "saved at equal quality", "0.41×", "0.392× to 0.421×", "4.10 s", "500 J", "NVML energy counter"):
        assert said in text, said


def test_unknown_joules_are_a_sentence_in_the_plots_place():
    text = page("no joules")
    assert 'id="quality-joules"' not in text
    assert '<p class="instead">Unknown, because no energy counter can be read on this machine.</p>' in text
    assert 'id="quality-joules"' in page("rich")


def test_a_reason_that_all_arms_share_is_not_repeated_with_each():
    one = judged(record())
    joules = {card.shown.name: card.quantities[2] for card in cards.cards(one, arms.shown(one))}
    assert joules["RigL"].told
    assert one.sensor_why in joules["RigL"].sentence
    own = [replace(run, energy=replace(run.energy, why="the GPU is lost")) for run in one.arms[1].runs]
    lost = judged(replace(one, arms=(one.arms[0], replace(one.arms[1], runs=tuple(own))), sensor_why=None))
    assert not cards.cards(lost, arms.shown(lost))[1].quantities[2].told


def test_arms_that_a_plot_cannot_show_are_named():
    missing = re.findall(r"Not here, because what it spent or its score is unknown: ([^<]+)\.", page("diverged"))
    assert missing == ["RigL, 90 % sparse", "RigL, 90 % sparse", "RigL, 90 % sparse, gradual pruning"]


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_what_is_not_installed_is_named(monkeypatch, missing):
    for name in [name for name in sys.modules if name.partition(".")[0] == missing or ".report.page." in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(
        ModuleNotFoundError, match=rf"^expected {missing}.*, got none; run `pip install 'sparse_ext\[report\]'`"
    ):
        whole_page.html(record())


NUMBERS = [
    (None, "unknown"), (0.0, "0"), (1.234, "1.23"), (1.2, "1.20"), (0.0123456, "0.0123"), (12345.6, "12,346"), (9.999, "10.0"),
    (0.9999, "1.00"), (-2.5, "\N{MINUS SIGN}2.50"), (1e-9, "1.00e\N{MINUS SIGN}09"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "said"), NUMBERS)
def test_numbers(value, said):
    assert amounts.number(value) == said


MEASURES = [
    (23.41, "seconds", "23.4 s"), (90.0, "seconds", "90.0 s"), (150.0, "seconds", "2.50 min"), (7200.0, "seconds", "2.00 h"),
    (0.0031, "seconds", "3.10 ms"), (1e12, "flops", "1.00 TFLOP"), (93280.0, "joules", "93.3 kJ"), (0.0, "bytes", "0 B"),
    (8500.0, "bytes", "8.50 kB"), (None, "joules", "unknown"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "quantity", "said"), MEASURES)
def test_measures(value, quantity, said):
    assert amounts.measure(value, quantity) == said


def test_names_are_shortened_in_the_middle():
    assert words.shortened("encoder.block.7.query", 11) == "encod…query"
    assert words.shortened("short", 11) == "short"
    assert words.wrapped("narrow dense, equal seconds", 20) == ["narrow dense, equal", "seconds"]
    assert words.wrapped("", 20) == [""]


def test_a_curve_ends_with_the_run():
    run = record().arms[0].runs[0]
    run = replace(run, curve=(replace(run.curve[0], score=2.5), run.curve[1]))
    known = arms.curve(run, arms.SPENT["seconds"], unit=2.0)
    assert known == arms.Curve({50: (2.5, 2.5)}, (5.0, 2.0))
    assert known.line == [(2.5, 2.5), (5.0, 2.0)]
    assert arms.curve(run, arms.SPENT["joules"]) is None
    assert arms.curve(replace(run, score=None), arms.SPENT["seconds"]) is None


def test_a_mean_curve_has_the_steps_that_all_have():
    one, other = arms.Curve({1: (1.0, 9.0), 2: (2.0, 8.0)}, (3.0, 7.0)), arms.Curve({2: (4.0, 6.0)}, (5.0, 5.0))
    assert arms.mean_curve([one, other]) == arms.Curve({2: (3.0, 7.0)}, (4.0, 6.0))


def test_mean_density_is_a_step_function():
    run = record().arms[1].runs[0]
    one = replace(run, steps=10, density=tuple(DensityPoint(*each) for each in ((0, 1.0), (4, 0.5))))
    other = replace(run, steps=12, density=(DensityPoint(0, 0.5),))
    assert density.mean_density([one, other]) == ([0, 4, 12], [0.75, 0.5, 0.5])


def test_the_shortest_layers_are_one_row():
    own = [LayerTime(f"layer {i}", (8, 8), "csr", 0.1, float(i), 2.0 * i) for i in range(1, 13)]
    rows = layers.rows(own, [replace(layer, forward_s=10.0, backward_s=30.0) for layer in own[:2]])
    assert len(rows) == layers.LAYERS
    assert [row.name for row in rows] == ["layer 1", "layer 2", *(f"layer {i}" for i in range(6, 13)), "3 others"]
    assert rows[-1].own == (3.0 + 4.0 + 5.0, 24.0)
    assert rows[-1].reference is None
    assert rows[0].reference == (10.0, 30.0)
    assert rows[0].detail == "8 × 8, csr, 10 %"


SCORES = [(0.02, 2.028, 3), (0.1, 2.028, 2), (3.0, 93.0, 1), (0.0, 0.5, 4), (0.0, 93.0, 2)]


@pytest.mark.parametrize(("tolerance", "score", "decimals"), SCORES)
def test_scores_have_two_digits_of_the_tolerance(tolerance, score, decimals):
    one = record()
    arm = replace(one.arms[0], runs=tuple(replace(run, score=score) for run in one.arms[0].runs))
    assert scores.Scores.of(replace(one, metric=Metric("a score", True, tolerance), arms=(arm,))).decimals == decimals


def test_without_a_tolerance_scores_have_two_digits_of_the_smallest_loss():
    one = replace(record(), metric=Metric("a score", True, 0.0))
    arms = (one.arms[0], *(replace(one.arms[1], loss=Interval(mean, None, None, 1)) for mean in (-0.3, 0.0004, 0.0)))
    assert scores.Scores.of(replace(one, arms=arms)).decimals == 5


@pytest.mark.parametrize(("mean", "said"), [(0.013, "worse by 0.013"), (-0.2, "better by 0.200"), (0.0004, "the same")])
def test_a_loss_in_words(mean, said):
    arm = replace(record().arms[1], loss=Interval(mean, None, None, 1))
    assert scores.Scores(3).loss(arm) == said


STRIPS = [
    (Interval(0.5, 0.4, 0.7, 3), cards.Strip(25.0, 20.0, 15.0)),
    (Interval(0.5, None, None, 1), cards.Strip(25.0, 25.0, 0.0)),
    (Interval(9.0, 1.0, 11.0, 3), cards.Strip(100.0, 50.0, 50.0)),
]


def test_a_mean_is_of_all_runs():
    runs = record(joules=True).arms[0].runs
    assert arms.mean(runs, lambda run: run.seed) == 1
    assert arms.mean(runs, lambda run: run.seed or None) is None


@pytest.mark.parametrize(("ratio", "strip"), STRIPS)
def test_the_strip_of_a_ratio(ratio, strip):
    assert cards._ratio(ratio).strip == strip


def test_a_table_of_means():
    one = record(joules=True)
    shown = arms.shown(judged(one))
    made = {table.heading: table for table in tables.tables(judged(one), shown)}
    assert made["Energy"].headings[0] == ("gross", "J")
    assert [row.cells[0] for row in made["Energy"].rows] == ["500", "180"]
    assert made["Spent until as good as dense"].rows[1].cells[0] == "3 of 3"
    assert len(tables.every_run(one, shown).rows) == 6


def test_a_wide_page_is_not_large():
    assert len(page("rich")) < 400_000
    assert len(whole_page.html(rich(rows=rich.__kwdefaults__["rows"][:2]))) < 200_000

"""What a record holds: figures by hand, energy with and without a counter, and runs that go wrong."""

import json
import warnings
from dataclasses import replace
from itertools import cycle

import pytest
from tiny import RIGL, FakeMeter, Squares, compared, config

from sparse_ext.compare import ARMS, compare, layers
from sparse_ext.compare.config import config_of
from sparse_ext.report import codec
from sparse_ext.report.record import NOT_SAVED, SAVED, SAVED_WITH_LOSS, UNKNOWN
from sparse_ext.report.run import Stage

# Multiply-adds of a dense layer for each sample, forward; the gradient of the first input is not computed.
LAYERS = (16 * 32, 32 * 32, 32)
DENSE_STEP = 2 * (3 * sum(LAYERS) - LAYERS[0])
STATIC = RIGL | {"name": "static", "method": "static", "choices": {}, "distribution": "uniform", "exclude": ["5"]}
NNZ = (102, 205, 32)
EVERY = (
    RIGL,
    {"name": "flops", "kind": "equal flops"},
    {"name": "seconds", "kind": "equal seconds", "steps": 12},
    {"name": "narrow", "kind": "narrower", "share": 0.5},
    {"name": "thin", "kind": "low rank", "share": 0.5},
    {"name": "early", "kind": "early stop"},
)


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    """(folder, record) of one arm of every kind, three repeats, with a counter."""
    folder = tmp_path_factory.mktemp("every")
    changes = {"repeats": 3, "idle_s": 0.01, "layers_s": 0.05, "trial": False}
    return folder, compared(folder, *EVERY, meter=FakeMeter(joules=60.0), **changes)


def test_every_kind_of_arm_is_in_the_record(every):
    folder, record = every
    assert {arm.kind for arm in record.arms} == set(ARMS)
    assert codec.read(folder / "report.json") == record
    assert (folder / "report.md").exists()
    assert [[run.seed for run in arm.runs] for arm in record.arms] == [[0, 1, 2]] * len(record.arms)
    matched = {arm.name: (arm.matches, arm.matched) for arm in record.arms if arm.matches}
    assert matched == {
        "flops": ("RigL", "flops"),
        **dict.fromkeys(("seconds", "narrow", "thin"), ("RigL", "seconds")),
    }


def test_every_arm_is_judged(every):
    _, record = every
    for arm in record.arms[1:]:
        assert {verdict.outcome for verdict in arm.verdicts.values()} <= {SAVED, SAVED_WITH_LOSS, NOT_SAVED}
    assert record.headline


def test_runs_are_whole(every):
    _, record = every
    for arm in record.arms:
        for run in arm.runs:
            assert run.curve[-1].step == run.steps
            assert run.curve[-1].score == run.score
            assert run.curve[-1].flops == run.flops
            assert run.samples == 8 * run.steps
            assert run.seconds.train_s > run.seconds.updates_s >= 0
            assert min(run.seconds.evaluation_s, run.seconds.warm_up_s, run.memory.total) > 0
            assert run.hardware_days == pytest.approx(run.seconds.total_s / 86400)
    assert [point.step for point in record.arms[0].runs[0].curve] == [8, 16, 24]
    rigl = record.arms[1]
    assert (rigl.method, rigl.layout, rigl.sparsity) == ("rigl", "auto", 0.8)
    assert (rigl.choices["update_interval"], rigl.choices["drop_fraction"]) == (4, 0.3)
    assert rigl.runs[0].seconds.updates_s > 0
    assert rigl.runs[0].memory.weights < record.arms[0].runs[0].memory.weights


def test_layers(every):
    _, record = every
    layers = {arm.name: arm.layers for arm in record.arms}
    assert [layer.name for layer in layers["dense"]] == ["0", "3", "5"]
    assert [layer.shape for layer in layers["dense"]] == [(32, 16), (32, 32), (1, 32)]
    assert [layer.layout for layer in layers["dense"]] == [None] * 3
    assert layers["RigL"][1].layout is not None
    assert layers["RigL"][1].density < 0.3
    assert [layer.name for layer in layers["thin"]] == ["0.0", "0.1", "3.0", "3.1", "5"]
    assert min(min(layer.forward_s, layer.backward_s) for rows in layers.values() for layer in rows) > 0


def test_energy_by_hand(every):
    """A window of 60 J for each of 6 turns; the idle machine uses 30 W."""
    _, record = every
    assert record.sensor.source == "fake counter"
    assert [(one.when, one.joules, one.mean_w) for one in record.idle] == [("before", 60.0, 30.0), ("after", 60.0, 30.0)]
    run = record.arms[0].runs[0]
    assert run.energy.gross_j == pytest.approx(360.0, rel=0.05)  # less what counting took
    assert run.energy.net_j == pytest.approx(run.energy.gross_j - 30.0 * run.seconds.total_s)
    assert run.energy.per_sample_j == pytest.approx(run.energy.gross_j / run.samples)
    assert run.energy.mean_w == pytest.approx(run.energy.gross_j / run.seconds.total_s)
    assert run.curve[-1].joules == run.energy.gross_j
    assert (run.temperature_before_c, run.temperature_after_c > run.temperature_before_c) == (41.0, True)


def test_without_a_counter(tmp_path):
    record = compared(tmp_path, idle_s=0.01)
    assert (record.sensor, record.sensor_why) == (None, "this machine has no counter")
    assert [one.joules for one in record.idle] == [None, None]
    for arm in record.arms:
        for run in arm.runs:
            assert (run.energy.gross_j, run.energy.net_j, run.energy.why) == (None, None, "this machine has no counter")
            assert min(run.seconds.total_s, run.flops, run.memory.total) > 0
            assert {point.joules for point in run.curve} == {None}
    assert record.arms[1].verdicts["joules"].outcome == UNKNOWN


def test_pipeline_stages(tmp_path):
    """A CPU has no clock that can be read."""
    asked, not_asked = (compared(tmp_path / str(count), stages=count) for count in (2, 0))
    for arm, other in zip(asked.arms, not_asked.arms, strict=True):
        assert (arm.stages, other.stages) == ((), ())
        assert arm.stages_why
        assert other.stages_why == "no pipeline stages were asked for (stages = 0)"
        assert arm.stages_why != other.stages_why


def test_stages_are_measured_at_the_frequencies_asked_for(tmp_path, monkeypatch):
    def measured(model, step, stages, meter, *, frequencies):
        assert stages == 2
        return tuple(Stage(0, which, mhz, 1.0, 1.0) for which in ("forward", "backward") for mhz in frequencies), None

    monkeypatch.setattr(layers, "measure_stages", measured)
    record = compared(tmp_path, stages=2, frequencies=[900, 1200])
    assert [[one.frequency_mhz for one in arm.stages] for arm in record.arms] == [[900, 1200] * 2] * 2
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"stages: expected at least 1, to be measured at \[900\] MHz, got 0"):
        compared(tmp_path / "none", frequencies=[900])


def test_without_an_idle_machine(tmp_path):
    record = compared(tmp_path, meter=FakeMeter(joules=60.0, warning="the window was too short"))
    energy = record.arms[0].runs[0].energy
    assert energy.gross_j > 0
    assert (energy.net_j, energy.why) == (None, "the idle machine was not measured, so its share is unknown")
    assert record.idle == ()
    assert "dense: energy, in 6 of 6 windows: the window was too short" in record.notes


# ---- FLOPs and density -------------------------------------------------------------------------------------------------------


class Lengths(Squares):
    """Batches of one sample, with one token and with three in turns."""

    def batches(self, seed):
        for (x, y), length in zip(super().batches(seed), cycle((1, 3)), strict=False):
            yield x[:1, None].expand(-1, length, -1), y[:1, None].expand(-1, length, -1)


def test_flops_of_batches_that_differ_in_length(tmp_path):
    dense = compared(tmp_path, task=f"{__name__}:Lengths").arms[0].runs[0]
    assert dense.flops == DENSE_STEP * (1 + 3) / 2 * 24


def test_what_a_method_keeps_is_memory(tmp_path):
    """SNFS has a dense momentum of float32, and Static has none; both know which positions were ever in use."""
    arms = [RIGL | {"name": "static", "method": "static", "choices": {}}, RIGL | {"name": "SNFS", "method": "snfs"}]
    static, snfs = (arm.runs[0].memory for arm in compared(tmp_path, *arms).arms[1:])
    room = snfs.optimizer_state - 2 * snfs.weights - (static.optimizer_state - 2 * static.weights)
    assert room == 4 * sum(LAYERS[:2])
    assert snfs.total >= snfs.weights + snfs.indices + snfs.optimizer_state


def test_flops_by_hand(tmp_path):
    rigl = STATIC | {"name": "RigL", "method": "rigl", "choices": {"update_interval": 4, "t_end": 12}}
    dense, static, grown = (arm.runs[0] for arm in compared(tmp_path, STATIC, rigl).arms)
    steps, samples = 24, 24 * 8
    sparse_step = 2 * (3 * sum(NNZ) - NNZ[0])
    assert dense.flops == DENSE_STEP * samples
    assert static.flops == sparse_step * samples
    assert grown.flops == (sparse_step * steps + 2 * 2 * sum(LAYERS[:2])) * 8  # updates after steps 4 and 8
    assert dense.planned_flops == 6 * sum(LAYERS) * samples
    assert static.planned_flops == pytest.approx(6 * sum(NNZ) * samples)
    more = 2 * (sum(LAYERS[:2]) - sum(NNZ[:2]))
    assert grown.planned_flops == pytest.approx(6 * sum(NNZ) * samples + 2 * more * 8)


def test_density_and_coverage_by_hand(tmp_path):
    """FST trains 2:4 for five sixths of the steps, then densely."""
    fst = {"name": "FST", "kind": "sparse", "method": "fst", "layout": "2:4", "exclude": ["5"]}
    dense, static, half = (arm.runs[0] for arm in compared(tmp_path, STATIC, fst).arms)
    assert (dense.average_density, dense.coverage) == (1.0, 1.0)
    zeros = 1 - sum(NNZ[:2]) / sum(LAYERS[:2])
    assert static.average_density == pytest.approx(1 - zeros)
    assert static.coverage == pytest.approx(1 - zeros)
    assert [(point.step, point.density) for point in static.density] == [(0, pytest.approx(1 - zeros))]
    assert [(point.step, point.density) for point in half.density] == [(0, 0.5), (20, 1.0)]
    assert half.average_density == pytest.approx((20 * 0.5 + 4) / 24)
    assert half.coverage == 1.0


# ---- what goes wrong -----------------------------------------------------------------------------------------------------


class Exploding(Squares):
    """Its loss is infinite for some batches, where the network is wide."""

    def loss(self, model, batch):
        loss = super().loss(model, batch)
        return loss / 0 if model.training and batch[0][0, 0] > 1.0 and model[0].out_features == 32 else loss


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    narrow = {"name": "narrow", "kind": "narrower", "share": 0.5}
    record = compared(tmp_path, RIGL, narrow, task=f"{__name__}:Exploding", repeats=3, trial=False)
    assert json.loads((tmp_path / "report.json").read_text())["title"] == "Squares"
    for arm in record.arms[:2]:
        for run in arm.runs:
            assert run.score is None
            assert run.curve == () or run.curve[-1].score is not None
            assert any(
                note.startswith(f"{arm.name}, seed {run.seed}: training ended, as a loss was not finite")
                for note in record.notes
            )
    assert all(run.steps == 24 and run.score is not None for run in record.arms[2].runs)
    assert all(verdict.outcome in (UNKNOWN, NOT_SAVED) for arm in record.arms[1:] for verdict in arm.verdicts.values())


class Undefined(Squares):
    def score(self, model, batches):
        return float("nan")


def test_a_score_that_is_not_finite(tmp_path):
    record = compared(tmp_path, task=f"{__name__}:Undefined")
    run = record.arms[0].runs[0]
    assert (run.score, [point.score for point in run.curve]) == (None, [None])
    assert "dense, seed 0: training ended, as its score at step 8 was nan, which is not finite." in record.notes


def test_a_trial_saves_nothing(tmp_path):
    record = compared(tmp_path, meter=FakeMeter(joules=60.0), repeats=2)
    assert {verdict.outcome for arm in record.arms[1:] for verdict in arm.verdicts.values()} <= {UNKNOWN, NOT_SAVED}
    assert "A trial: it shows that all works; nothing is called saved." in record.notes


def test_warnings_of_building_are_notes(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record = compared(tmp_path, RIGL | {"name": "few", "sparsity": 0.99, "distribution": "uniform"})
    assert [note for note in record.notes if note.startswith("few: sparsify_: '5' would have no weights")]


def test_arms_that_spent_too_much_are_told(tmp_path):
    much = {"name": "much", "kind": "equal flops", "steps": 24}
    told = [note for note in compared(tmp_path, STATIC, much).notes if note.startswith("much")]
    share = DENSE_STEP / (2 * (3 * sum(NNZ) - NNZ[0]))
    assert told == [f"much was to spend as many flops as static, and spent {share:.2f} times as many."]


class Finite(Squares):
    def batches(self, seed):
        batches = super().batches(seed)
        for _ in range(10):
            yield next(batches)


def test_batches_that_end(tmp_path):
    with pytest.raises(ValueError, match=r"Finite\.batches: expected batches without end, got 10"):
        compared(tmp_path, task=f"{__name__}:Finite")


class Twice(Squares):
    def loss(self, model, batch):
        return super().loss(model, batch) + super().loss(model, batch)


def test_a_loss_that_calls_the_model_twice(tmp_path):
    with pytest.raises(ValueError, match=r"Twice\.loss: expected it to call the model once, got 2 calls"):
        compared(tmp_path, task=f"{__name__}:Twice")


def test_a_config_may_be_given_as_it_is(tmp_path, monkeypatch):
    """And the folder is then named after the title."""
    monkeypatch.chdir(tmp_path)
    record = compare(replace(config_of(config()), title="Two squares!"), meter=FakeMeter())
    assert (tmp_path / "out" / "compare" / "two-squares" / "report.json").exists()
    assert record.config["title"] == "Two squares!"

"""Pipeline stages on a machine whose time, energy and clock a reader can follow: a module costs cycles, a cycle joules."""

from contextlib import contextmanager
from itertools import combinations, pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import sparse_ext as sx
from sparse_ext.compare import stages as stages_module
from sparse_ext.compare.sm_clock import Unmeasured
from sparse_ext.compare.stages import even_cuts, measure_stages
from sparse_ext.report.run import Stage

WATTS = 100.0


class FakeGpu:
    """Its time moves by the cycles of what runs. It is the meter and the clock as well."""

    def __init__(self, *, counter=True, period_s=None):
        self.now_s, self.frequency_mhz, self.counter, self.period_s = 0.0, 1000, counter, period_s
        self.windows, self.locks = [], []

    def run(self, million_cycles):
        self.now_s += million_cycles / self.frequency_mhz

    def begin_window(self, name):
        self.begin_s = self.now_s

    def end_window(self, name):
        seconds = self.now_s - self.begin_s
        self.windows.append((name, seconds))
        joules, why = (seconds * WATTS, None) if self.counter else (None, "nothing counts here")
        return SimpleNamespace(joules=joules, seconds=seconds, why=why, period_s=self.period_s)

    def mhz(self):
        return self.frequency_mhz

    @contextmanager
    def locked(self, mhz):
        self.locks.append(mhz)
        before, self.frequency_mhz = self.frequency_mhz, mhz
        try:
            yield
        finally:
            self.frequency_mhz = before


class Costing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gpu, million_cycles):
        ctx.gpu, ctx.million_cycles = gpu, million_cycles
        gpu.run(million_cycles)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.gpu.run(2 * ctx.million_cycles)
        return gradient, None, None


class Costs(nn.Module):
    """A layer whose backward pass costs twice its forward pass."""

    def __init__(self, gpu, million_cycles, layer=None):
        super().__init__()
        self.gpu, self.million_cycles, self.layer = gpu, million_cycles, layer or nn.Linear(4, 4)

    def forward(self, x):
        return Costing.apply(self.layer(x), self.gpu, self.million_cycles)


def model_of(gpu, *cycles):
    """With a step of it, forward and backward."""
    model = nn.Sequential(*(Costs(gpu, one) for one in cycles))
    return model, lambda: model(torch.randn(2, 4)).square().sum().backward()


def approx(*stages):
    return [Stage(*head, pytest.approx(time), pytest.approx(energy)) for *head, time, energy in stages]


def measured(gpu, model, step, stages, **options):
    found, why = measure_stages(model, step, stages, gpu, clock=gpu, window_s=0.05, **options)
    assert why is None
    return list(found)


def test_by_hand():
    """At 1000 MHz a million cycles take 1 ms and 0.1 J. The second stage has two modules, of 3 and 2 million cycles."""
    gpu = FakeGpu()
    model, step = model_of(gpu, 1, 3, 2)
    assert measured(gpu, model, step, {0: ["0"], 1: ["1", "2"]}) == approx(
        (0, "forward", 1000, 1e-3, 0.1),
        (0, "backward", 1000, 2e-3, 0.2),
        (1, "forward", 1000, 5e-3, 0.5),
        (1, "backward", 1000, 10e-3, 1.0),
    )


def test_each_frequency():
    gpu = FakeGpu()
    model, step = model_of(gpu, 1)
    assert measured(gpu, model, step, 1, frequencies=(500, 2000)) == approx(
        (0, "forward", 500, 2e-3, 0.2),
        (0, "backward", 500, 4e-3, 0.4),
        (0, "forward", 2000, 0.5e-3, 0.05),
        (0, "backward", 2000, 1e-3, 0.1),
    )
    assert (gpu.locks, gpu.frequency_mhz) == ([500, 2000], 1000)


def test_a_clock_that_is_left_alone_is_not_locked():
    gpu = FakeGpu()
    measured(gpu, *model_of(gpu, 1), 1)
    assert gpu.locks == []


@pytest.mark.parametrize(("period_s", "least_s"), [(None, 0.05), (0.0001, 0.05), (0.1, 5.0)])
def test_a_window_suffices_for_the_counter(period_s, least_s):
    """50 periods, or what was asked for; a pass is 1 ms long, and no window is much longer than needed."""
    gpu = FakeGpu(period_s=period_s)
    measured(gpu, *model_of(gpu, 1), {0: ["*"]})
    last = dict(gpu.windows)
    assert last.keys() == {"stage 0 forward", "stage 0 backward"}
    assert all(least_s <= seconds < 1.5 * least_s for seconds in last.values())


def test_uneven_sparsity_is_uneven_time():
    """Of layers that cost what they multiply, the one with four times the non-zeros takes four times as long."""
    gpu = FakeGpu()
    layers = [sx.SparseLinear(20, 20, sparsity=sparsity) for sparsity in (0.9, 0.6, 0.9)]
    model = nn.Sequential(*(Costs(gpu, layer.nnz / 40, layer) for layer in layers))
    found = measured(gpu, model, lambda: model(torch.randn(2, 20)).sum().backward(), {0: ["0"], 1: ["1"], 2: ["2"]})
    assert [layer.nnz for layer in layers] == [40, 160, 40]
    assert [one.time_s for one in found if one.instruction == "forward"] == pytest.approx([1e-3, 4e-3, 1e-3])


def test_stages_of_about_equal_time():
    """1, 1, 2 and 4 million cycles in two stages: four and four."""
    gpu = FakeGpu()
    found = measured(gpu, *model_of(gpu, 1, 1, 2, 4), 2)
    assert [one.time_s for one in found] == pytest.approx([4e-3, 8e-3, 4e-3, 8e-3])


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_no_other_cuts_are_more_even(count):
    seconds = [3.0, 1.0, 4.0, 1.0, 5.0]

    def longest(cuts):
        ends = [0, *cuts, len(seconds)]
        return max(sum(seconds[first:last]) for first, last in pairwise(ends))

    cuts = even_cuts(seconds, count)
    assert len(cuts) == count - 1
    assert longest(cuts) == min(map(longest, combinations(range(1, len(seconds)), count - 1)))


def test_without_a_counter_there_are_no_stages():
    gpu = FakeGpu(counter=False)
    model, step = model_of(gpu, 1)
    assert measure_stages(model, step, 1, gpu, clock=gpu, window_s=0.05) == (
        (),
        "stage 0 forward: the energy is unknown, because nothing counts here",
    )


def test_without_a_clock_there_are_no_stages():
    gpu = FakeGpu()
    stages, why = measure_stages(*model_of(gpu, 1), 1, gpu)
    assert stages == ()
    assert "a clock is read of NVIDIA GPUs only, and the model is on cpu" in why
    assert gpu.windows == []


def test_a_clock_that_is_lost_leaves_no_window_open(monkeypatch):
    gpu = FakeGpu()
    model, step = model_of(gpu, 1)

    def lost():
        raise Unmeasured("the GPU is lost")

    monkeypatch.setattr(gpu, "mhz", lost)
    assert measure_stages(model, step, {0: ["0"]}, gpu, clock=gpu) == ((), "the GPU is lost")
    assert [name for name, _ in gpu.windows] == ["stage 0 forward"]


def test_a_stage_without_gradient_is_told():
    gpu = FakeGpu()
    model, step = model_of(gpu, 1, 1)
    model[0].requires_grad_(False)
    assert measure_stages(model, step, {0: ["0"], 1: ["1"]}, gpu, clock=gpu, window_s=0.05) == (
        (),
        "stage 0 backward: there is none, as nothing in the stage has a gradient",
    )


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        (0, "expected 1 to 2, as many as the model itself calls, or names of modules; got 0"),
        (3, "expected 1 to 2, .* got 3"),
        ({}, r"numbered 0, 1, \.\.\., got \[\]"),
        ({1: ["0"], 2: ["1"]}, r"numbered 0, 1, \.\.\., got \[1, 2\]"),
        ({0: ["0", "1"], 1: ["nowhere.*"]}, "matches 'nowhere.*', got none"),
        ({0: ["*"], 1: ["1"]}, "expected '1' in one stage, got it in 0 and 1"),
        ({0: ["0"]}, r"parameters in a stage, got '1\.layer\.weight' in none"),
        ({0: ["0", "1"], 1: ["1.layer"]}, "outside of others', got none of 1"),
    ],
)
def test_stages_that_cannot_be(stages, sentence):
    gpu = FakeGpu()
    model, step = model_of(gpu, 1, 1)
    with pytest.raises(ValueError, match=sentence):
        measure_stages(model, step, stages, gpu, clock=gpu)


def test_a_frequency_that_moves_is_the_median(monkeypatch):
    """Eight looks per window, whatever the number of repeats."""
    gpu = FakeGpu()
    looks = []
    monkeypatch.setattr(gpu, "mhz", lambda: looks.append(1) or (900 if len(looks) % 8 == 0 else 1000))
    found = measured(gpu, *model_of(gpu, 1), {0: ["0"]})
    assert [one.frequency_mhz for one in found] == [1000, 1000]
    assert len(looks) <= stages_module.CLOCK_SAMPLES * len(gpu.windows)

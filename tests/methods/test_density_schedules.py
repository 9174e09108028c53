"""The schedules of methods that change densities: by hand, and for any length of run: each ends exactly where it should."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sparse_ext as sx
from sparse_ext.methods import LayerNumbers, Layers, Regrow, Time

CHANGING = (sx.GMP, sx.GraNet, sx.ACDC, sx.ESTDGM)


def layer(positions, nnz, target):
    return LayerNumbers(1, positions, positions, "csr", False, lambda: nnz, lambda signal: 0.0, target=target)


def smallest(counts):
    """As if the layers' magnitudes were all alike in order: the first layers lose first."""

    def choose(count):
        found = {}
        for name, nnz in counts.items():
            found[name] = min(count, nnz)
            count -= found[name]
        return found

    return choose


def counts(method, total_steps, targets, positions=100):
    """{step: nnz of all layers} after every step of a run that does what the method orders."""
    size = dict.fromkeys(targets, positions) if isinstance(positions, int) else positions
    now = {name: round(method.initial_density(target / size[name]) * size[name]) for name, target in targets.items()}
    history = [dict(now)]
    for step in range(1, total_steps + 1):
        time = Time(step, total_steps)
        if method.is_update(time):
            numbers = {name: layer(size[name], now[name], target) for name, target in targets.items()}
            for name, action in method.plan(Layers(numbers, smallest(dict(now))), time).items():
                assert isinstance(action, Regrow)
                assert 0 <= action.drop <= now[name]
                assert 0 <= action.grow <= size[name] - (now[name] - action.drop)
                now[name] += action.grow - action.drop
        history.append(dict(now))
    return history


def one(method, total_steps, target, positions=100):
    """The nnz of one layer at the start and after every step."""
    return [now["a"] for now in counts(method, total_steps, {"a": target}, positions)]


def changes(history):
    """[(step, nnz)] where it changes."""
    return [(step, now) for step, (before, now) in enumerate(pairwise(history), 1) if now != before]


# ---- by hand ---------------------------------------------------------------------------------------------------------


def test_gmp_by_hand():
    """From 10 to 50, of 640 positions: 128 + 512 (1 - (t - 10) / 40)^3."""
    history = one(sx.GMP(t_start=10, t_end=50, update_interval=10), 80, 128, 640)
    assert history[0] == history[19] == 640
    assert changes(history) == [(20, 344), (30, 192), (40, 136), (50, 128)]


def test_gmp_whose_window_is_a_point_prunes_at_once():
    assert changes(one(sx.GMP(t_start=0.5, t_end=0.5), 10, 20)) == [(5, 20)]


def test_gmp_from_sparse_layers_by_hand():
    """0.2 + 0.3 (1 - progress)^3."""
    assert changes(one(sx.GMP(initial_sparsity=0.5, t_start=0, t_end=20, update_interval=10), 30, 20)) == [(10, 24), (20, 20)]


def test_gmp_ends_at_its_target_not_short_of_it():
    """A ramp that divides by t_end in place of the window's length stops at 87.5 % for 90 %."""
    history = one(sx.GMP(t_start=0.5, t_end=1.0, update_interval=10), 100, 100, 1000)
    assert history[-1] == 100


def test_gmp_where_the_interval_does_not_divide_the_window():
    """The last update comes at t_end: after 10, 10 and 5 of 25 steps."""
    history = one(sx.GMP(t_start=5, t_end=30, update_interval=10), 40, 0, 1000)
    assert changes(history) == [(15, 216), (25, 8), (30, 0)]


def test_global_gmp_follows_the_sum():
    history = counts(sx.GMP(t_start=0, t_end=20, update_interval=10, scope="global"), 20, {"a": 30, "b": 10})
    assert history[10] == {"a": 0, "b": 60}  # 40 + 160 / 8 in all
    assert history[20] == {"a": 0, "b": 40}


def test_granet_by_hand():
    """0.1 + 0.4 (1 - t / 20)^3 of 1000; half of them, and less with time, is replaced."""
    method = sx.GraNet(ramp_end=20, update_interval=10, t_end=40, schedule="constant")
    orders = {
        step: method.plan({"a": layer(1000, nnz, 100)}, Time(step, 60)).get("a")
        for step, nnz in ((10, 500), (20, 150), (30, 100), (40, 100), (40, 110))
    }
    assert orders[10] == Regrow(350 + 75, 75, grow_by="gradient")
    assert orders[20] == Regrow(50 + 50, 50, grow_by="gradient")
    assert orders[30] == Regrow(50, 50, grow_by="gradient")
    assert orders[40] == Regrow(10, 0)  # behind t_end nothing grows
    assert method.plan({"a": layer(1000, 100, 100)}, Time(40, 60)) == {}


def test_acdc_by_hand():
    """Dense until 10, then phases of 10; t_end is 75: the last compressed one begins at 70."""
    history = one(sx.ACDC(t_start=10, t_end=75, update_interval=10), 100, 20)
    assert changes(history) == [(10, 20), (20, 100), (30, 20), (40, 100), (50, 20), (60, 100), (70, 20)]


def test_the_papers_phases():
    """In epochs: compressed from 10, 20, ... 70 and, for good, from 85 on; dense from 15, 25, ... on."""
    method = sx.ACDC()
    switches = [at for at, _ in changes(one(method, 100, 20))]
    assert switches == [10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 80]
    assert method.is_compressed(Time(80, 100))


def test_acdc_renews_state_where_a_dense_phase_begins():
    method = sx.ACDC(t_start=10, update_interval=10)
    assert method.plan({"a": layer(100, 20, 20)}, Time(20, 100)) == {"a": Regrow(0, 80, fresh_state=True)}
    assert method.plan({"a": layer(100, 100, 20)}, Time(30, 100)) == {"a": Regrow(80, 0)}
    assert method.plan({"a": layer(100, 20, 20)}, Time(30, 100)) == {}


def test_est_dgm_by_hand():
    """Two cycles of 60 steps, with phases of 30, 18 and 12."""
    method = sx.ESTDGM(cycles=2, phases=(0.5, 0.3, 0.2), update_interval=100)
    assert method.begins(120) == [30, 48, 60, 90, 108]
    assert changes(one(method, 120, 10)) == [(30, 25), (48, 10), (60, 65), (90, 25), (108, 10)]


def test_est_dgm_exchanges_within_phases():
    method = sx.ESTDGM(cycles=1, phases=(0.5, 0.25, 0.25), update_interval=10, drop_fraction=0.2, schedule="constant", t_end=95)
    cases = {
        (10, 65): Regrow(13, 13, grow_by="gradient"),  # exploration
        (50, 65): Regrow(40, 0),  # the second phase begins
        (60, 25): Regrow(5, 5, grow_by="gradient"),
        (90, 10): Regrow(2, 2, grow_by="gradient"),  # refinement
    }
    for (step, nnz), order in cases.items():
        assert method.plan({"a": layer(100, nnz, 10)}, Time(step, 100)) == {"a": order}
    assert method.plan({"a": layer(100, 10, 10)}, Time(100, 100)) == {}  # frozen
    assert method.is_update(Time(75, 100))
    assert not method.is_update(Time(76, 100))


@pytest.mark.parametrize(("selection", "signal"), [("literal", "consistency"), ("blend", "consistency blend")])
def test_est_dgm_chooses_of_all_positions(selection, signal):
    method = sx.ESTDGM(cycles=1, selection=selection, update_interval=10, gradient_steps=2)
    assert method.plan({"a": layer(100, 65, 10)}, Time(10, 90)) == {"a": Regrow(65, 65, grow_by=signal)}
    assert method.plan({"a": layer(100, 65, 10)}, Time(30, 90)) == {"a": Regrow(65, 25, grow_by=signal)}


def test_a_layer_that_is_denser_than_a_phase_stays_so():
    assert one(sx.ESTDGM(cycles=2), 50, 80) == [80] * 51
    assert one(sx.GMP(initial_sparsity=0.5), 50, 80) == [80] * 51
    assert one(sx.GraNet(), 50, 80) == [80] * 51


def test_the_gradient_is_observed_where_something_grows_by_it():
    method = sx.ESTDGM(cycles=1, update_interval=10, gradient_steps=3, t_end=0.9)
    assert [step for step in range(1, 101) if method.observes(Time(step, 100))][:9] == [8, 9, 10, 18, 19, 20, 28, 29, 30]
    assert not any(method.observes(Time(step, 100)) for step in range(91, 101))


# ---- any run ---------------------------------------------------------------------------------------------------------


def when():
    return st.one_of(st.floats(0.0, 1.0), st.integers(0, 200))


STEPS, INTERVALS, TARGETS = st.integers(1, 150), st.integers(1, 200), st.integers(0, 100)


def ordered(one, other):
    return type(one) is not type(other) or one <= other


@given(STEPS, INTERVALS, TARGETS, when(), when(), st.floats(0.0, 0.99), st.sampled_from(["layer", "global"]))
def test_gmp_falls_to_its_end(total, interval, target, start, end, sparsity, scope):
    if not ordered(start, end):
        start, end = end, start
    method = sx.GMP(sparsity, start, end, interval, scope)
    history = counts(method, total, {"a": target, "b": 37})
    sums = [sum(now.values()) for now in history]
    assert sums == sorted(sums, reverse=True)
    assert sums[-1] == target + 37
    assert scope == "global" or history[-1] == {"a": target, "b": 37}
    assert all(now[name] <= before[name] for before, now in pairwise(history) for name in now)


@given(
    STEPS, INTERVALS, TARGETS, when(), when(), st.floats(0.0, 0.99), st.floats(0.0, 1.0), st.sampled_from(["layer", "global"])
)
def test_granet_falls_to_its_end(total, interval, target, start, end, sparsity, share, scope):
    if not ordered(start, end):
        start, end = end, start
    method = sx.GraNet(share, interval, initial_sparsity=sparsity, ramp_start=start, ramp_end=end, scope=scope, t_end=1.0)
    history = counts(method, total, {"a": target, "b": 37})
    sums = [sum(now.values()) for now in history]
    assert sums == sorted(sums, reverse=True)
    assert sums[-1] == target + 37
    assert scope == "global" or history[-1] == {"a": target, "b": 37}


@given(STEPS, st.one_of(INTERVALS, st.floats(0.01, 1.0)), TARGETS, when(), when(), st.sampled_from(["layer", "global"]))
def test_acdc_ends_sparse(total, interval, target, start, end, scope):
    if not ordered(start, end):
        start, end = end, start
    method = sx.ACDC(start, end, interval, scope)
    sums = [sum(now.values()) for now in counts(method, total, {"a": target, "b": 37})]
    assert sums[0] == 200
    assert set(sums) <= {200, target + 37}
    assert sums[-1] == target + 37
    switches = [at for at, _ in changes(sums)]
    assert len({later - earlier for earlier, later in pairwise(switches)}) <= 1  # of equal length
    if len(switches) > 1:
        assert switches[0] >= switches[1] - switches[0]
        assert len(switches) % 2 == 1


PHASES = st.lists(st.integers(0, 9), min_size=3, max_size=3).filter(any).map(lambda n: tuple(one / sum(n) for one in n))


@given(STEPS, INTERVALS, TARGETS, st.integers(1, 6), PHASES, st.sampled_from(["split", "literal", "blend"]), when())
def test_est_dgm_ends_with_the_layers_own(total, interval, target, cycles, phases, selection, end):
    end = end or 0.5
    method = sx.ESTDGM(update_interval=interval, t_end=end, cycles=cycles, phases=phases, selection=selection)
    history = one(method, total, target)
    known = {max(target, density) for density in (65, 25, target)}
    assert history[-1] == target
    assert set(history) <= known
    assert history[0] == max(target, 65)
    begins = method.begins(total)
    assert all(at in begins or at % interval == 0 for at, _ in changes(history))


@given(st.sampled_from(CHANGING), STEPS, st.integers(1, 150), TARGETS)
def test_a_run_that_is_resumed_with_another_length_still_ends_there(kind, total, later, target):
    """From step 3 on: at the first update at which nothing more is to come, whatever came before."""
    method = replace(kind(), update_interval=3)
    now = layer(100, 100, target)
    step = max(3, 3 * -(-max(total, later) // 3)) + 300
    due = [s for s in range(step, step + 4) if method.is_update(Time(s, total))]
    assert due
    order = method.plan({"a": now}, Time(due[0], total)).get("a")
    assert target == 100 or (order.drop - order.grow) == 100 - target

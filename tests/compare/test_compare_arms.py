"""Sizes of arms that match another one, by hand and on a clock that is turned by the work; low rank; when training stops."""

import pytest
import torch
from cases import TOLERANCE
from tiny import DENSE, RIGL, Squares, compared, config
from torch import nn

from sparse_ext.compare.arms import ARMS, Size
from sparse_ext.compare.arms.low_rank import rank_of, thin_
from sparse_ext.compare.arms.smaller import LEAST, largest_share
from sparse_ext.compare.bench import Bench
from sparse_ext.compare.config import config_of, contenders_of, rival_of
from sparse_ext.compare.randomness import CPU

# Of 16 * 32 + 32 * 32 = 1536 weights a fifth, rounded by layer, 102 + 205; the last 32 stay.
STATIC = {"name": "static", "kind": "sparse", "method": "static", "sparsity": 0.8, "distribution": "uniform", "exclude": ["5"]}
STEPS, EVALUATIONS = 240, 4


class Working(Squares):
    """A second for each weight that a model has; an evaluation takes three, and nothing else takes time."""

    now = 0.0

    def loss(self, model, batch):
        self.now += sum(p.numel() for p in model.parameters() if p.dim() > 1 or p.numel() > 64)
        return super().loss(model, batch)

    def score(self, model, batches):
        self.now += 3.0
        return 0.0


def sized(table, task, steps=STEPS):
    """The size of an arm beside STATIC."""
    chosen = config_of(config(STATIC, {"name": "own", **table}, steps=steps))
    contenders = contenders_of(chosen, task)
    own = contenders["own"]
    bench = Bench(task, rival_of(own, contenders) or own, steps, EVALUATIONS, CPU, lambda: getattr(task, "now", 0.0))
    return own, own.size(bench)


def test_equal_flops():
    _, size = sized({"kind": "equal flops"}, Squares())
    assert size == Size(round(STEPS * (102 + 205 + 32) / (512 + 1024 + 32)))


def test_flops_of_updates_are_paid_too():
    """RigL's first two updates of six observe the dense gradient of its layers instead of the sparse one."""
    rigl = STATIC | {"name": "RigL", "method": "rigl", "choices": {"update_interval": 2, "t_end": 6}}
    contenders = contenders_of(config_of(config(rigl, {"name": "own", "kind": "equal flops"}, steps=24)), Squares())
    own = contenders["own"]
    size = own.size(Bench(Squares(), contenders["RigL"], 24, 1, CPU))
    plain, dense = 3 * (102 + 205 + 32), 3 * (512 + 1024 + 32)
    observed = plain + (512 + 1024) - (102 + 205)
    assert size.steps == round((22 * plain + 2 * observed) / dense)


def test_equal_seconds():
    task = Working()
    _, size = sized({"kind": "equal seconds"}, task)
    sparse = 102 + 205 + 32
    assert size.steps == round(STEPS * sparse / 1568)  # evaluations take as long in both
    assert sized({"kind": "equal seconds", "steps": 7}, task)[1].steps == 7


@pytest.mark.parametrize("kind", ["narrower", "low rank"])
def test_smaller_networks_take_as_long(kind):
    """As near to it, from below or within 2 %, as whole neurons and ranks allow."""
    task = Working()
    own, size = sized({"kind": kind}, task)
    weights = [sum(p.numel() for p in own.model(task, one, CPU).parameters() if p.dim() > 1) for one in around(size)]
    assert weights[0] <= 339 * 1.02
    assert weights[1] > 339 * 0.98
    assert size.note is None
    assert size.layers == (("0", "3") if kind == "low rank" else ())
    assert f"{100 * size.share:.3g} %" in own.about(size)


def around(size):
    """This size, and one that is larger by what a search leaves open."""
    return size, Size(size.steps, min(1.0, size.share * LEAST ** (-1 / 2**6)), size.layers)


def test_a_share_may_be_given():
    assert sized({"kind": "narrower", "share": 0.25}, Squares())[1] == Size(STEPS, 0.25)
    assert sized({"kind": "low rank", "share": 0.25}, Squares())[1] == Size(STEPS, 0.25, ("0", "3"))


@pytest.mark.parametrize("whole", [1.5, 2.0, 10.0, 50.0])
def test_the_largest_share(whole):
    share, note = largest_share(lambda one: whole * one)
    assert note is None
    assert 0.96 <= whole * share <= 1.02


def test_no_share_fits():
    assert largest_share(lambda one: 1.0) == (1.0, "the whole network, as even that takes no longer than the matched arm")
    share, note = largest_share(lambda one: 1.5 + one)
    assert share == LEAST
    assert "takes 1.52 times the matched arm's seconds" in note


class Counting(Working):
    """A second for each weight in use."""

    def loss(self, model, batch):
        self.now += sum(getattr(layer, "nnz", layer.weight.numel()) for layer in model if hasattr(layer, "weight"))
        return Squares.loss(self, model, batch)


def test_a_method_that_begins_denser_is_worth_fewer_of_its_first_steps():
    """GMP ends with a fifth of its weights: its whole run takes less than its steps at the beginning say."""
    task = Counting()
    gmp = {**STATIC, "name": "gmp", "method": "gmp", "choices": {"update_interval": 4}}
    contenders = contenders_of(config_of(config(gmp, {"name": "own", "kind": "equal seconds"}, steps=STEPS)), task)
    size = contenders["own"].size(Bench(task, contenders["gmp"], STEPS, EVALUATIONS, CPU, lambda: task.now))
    assert 0.3 * STEPS < size.steps < 0.7 * STEPS


# ---- low rank --------------------------------------------------------------------------------------------------------------


def test_ranks_by_hand():
    assert rank_of(32, 16, 1.0) == round(512 / 48)
    assert rank_of(512, 512, 0.5) == 128
    assert rank_of(4, 4, 0.01) == 1


def test_thin_layers():
    torch.manual_seed(0)
    conv, linear = nn.Conv2d(8, 64, 3, stride=2, padding=1), nn.Linear(1024, 256, bias=False)
    model = nn.Sequential(conv, nn.Flatten(), linear, nn.Linear(256, 8))
    bias = conv.bias.detach().clone()
    thin_(model, ["0", "2"], 0.5)
    conv, linear = model[0], model[2]
    assert [layer.weight.shape for layer in conv] == [(17, 8, 3, 3), (64, 17, 1, 1)]
    assert [layer.weight.shape for layer in linear] == [(102, 1024), (256, 102)]
    assert torch.equal(conv[1].bias, bias)
    assert [layer.bias is None for layer in (conv[0], *linear)] == [True] * 3
    norms = [layer.weight.norm() for layer in linear]
    torch.testing.assert_close(*norms, **TOLERANCE[torch.float32])  # each has a half of the singular values


@pytest.mark.parametrize("layer", [nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.Linear(32, 24)])
def test_a_weight_of_that_rank_is_kept(layer):
    torch.manual_seed(0)
    with torch.no_grad():
        flat = layer.weight.flatten(1)
        layer.weight.copy_((torch.randn(len(flat), 2) @ torch.randn(2, flat.shape[1])).view_as(layer.weight))
    x = torch.randn(5, 8, 6, 6) if isinstance(layer, nn.Conv2d) else torch.randn(5, 32)
    before = layer(x)
    after = thin_(nn.Sequential(layer), ["0"], 0.5)(x)
    torch.testing.assert_close(after, before, **TOLERANCE[torch.float32])


def test_a_layer_that_begins_with_zeros_still_does():
    model = nn.Sequential(nn.Linear(16, 16))
    nn.init.zeros_(model[0].weight)
    thin_(model, ["0"], 0.5)
    assert not model[0][1].weight.any()
    assert model[0][0].weight.all()


@pytest.mark.parametrize("layer", [nn.Conv2d(8, 8, 3, groups=2), nn.Conv1d(4, 4, 3)])
def test_layers_that_cannot_be_thin_are_named(layer):
    model = nn.Sequential(nn.Linear(4, 4), layer)
    with pytest.raises(ValueError, match="low rank: expected '1' to be Linear or Conv2d of one group"):
        thin_(model, ["0", "1"], 0.5)
    assert isinstance(model[0], nn.Linear)


def test_low_rank_needs_sparse_layers(tmp_path):
    sat = {"name": "SAT", "kind": "sparse", "method": "sat", "keeps_layers": True, "choices": {"update_interval": 4}}
    with pytest.raises(ValueError, match="'low rank' expects a matched arm with sparse layers, got 'SAT' without"):
        compared(tmp_path, sat, {"name": "own", "kind": "low rank"})
    assert not list(tmp_path.iterdir())  # so that a config that was repaired is not another one


# ---- early stop, precision, learning rate -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patience", "improvement", "scores", "over"),
    [
        (1, 0.0, [3.0], False),
        (1, 0.0, [3.0, 2.0], False),
        (1, 0.0, [3.0, 3.0], True),
        (2, 0.0, [2.0, 3.0], False),
        (2, 0.0, [2.0, 3.0, 1.9], False),
        (2, 0.0, [2.0, 3.0, 2.0], True),
        (2, 0.2, [2.0, 1.9, 1.85], True),
    ],
)
def test_when_training_stops(patience, improvement, scores, over):
    arm = ARMS["early stop"]("own", "float32", patience=patience, improvement=improvement)
    assert arm.is_over(scores, higher_is_better=False) == over
    assert arm.is_over([-score for score in scores], higher_is_better=True) == over


class Stuck(Squares):
    """Its score gets better until it is 0.5."""

    def score(self, model, batches):
        return max(0.5, super().score(model, batches))


def test_early_stop(tmp_path):
    stop = {"name": "stop", "kind": "early stop", "patience": 2}
    record = compared(tmp_path, stop, task=f"{__name__}:Stuck", steps=60, turns=12, evaluations=12)
    (run,), (whole,) = (arm.runs for arm in record.arms[::-1])
    assert run.stopped_early
    assert (run.score, len(run.curve)) == (0.5, run.steps // 5)
    assert run.curve == tuple(point for point in run.curve if point.step <= run.steps)
    assert [point.score for point in run.curve] == [point.score for point in whole.curve[: len(run.curve)]]
    assert not whole.stopped_early
    assert run.flops == pytest.approx(whole.flops * run.steps / 60)


class Precise(Squares):
    """Notes in which precision its model computes."""

    seen: set[tuple[torch.dtype, bool]] = set()  # noqa: RUF012

    def loss(self, model, batch):
        y = model(batch[0])
        self.seen.add((y.dtype, model.training))
        return nn.functional.mse_loss(y.float(), batch[1])


def test_precision(tmp_path):
    Precise.seen.clear()
    both = {(torch.float32, True), (torch.float32, False), (torch.bfloat16, True), (torch.bfloat16, False)}
    record = compared(tmp_path, DENSE | {"name": "low", "precision": "bfloat16"}, task=f"{__name__}:Precise")
    assert Precise.seen == both
    assert [arm.precision for arm in record.arms] == ["float32", "bfloat16"]
    Precise.seen.clear()
    compared(tmp_path / "all", RIGL, task=f"{__name__}:Precise", precision="bfloat16")
    assert Precise.seen == {one for one in both if one[0] == torch.bfloat16}


def test_an_arm_may_have_a_learning_rate_of_its_own(tmp_path):
    same, other = DENSE | {"name": "same", "lr": 1e-2}, DENSE | {"name": "other", "lr": 1e-3}
    scores = [arm.runs[0].score for arm in compared(tmp_path, same, other).arms]
    assert scores[0] == scores[1] != scores[2]

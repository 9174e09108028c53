"""What a config or a task says wrong is refused with a sentence, before anything is trained."""

import sys
from itertools import islice

import pytest
import torch
from tiny import DENSE, RIGL, FakeMeter, Squares, config
from torch import nn

from sparse_ext.compare import Config, Task, compare
from sparse_ext.compare.config import config_of, contenders_of, quick, rival_of
from sparse_ext.compare.task import load

ARM = "arm 'another': "
WRONG = [
    (lambda c: c.pop("title"), "config: expected 'title', got none"),
    (lambda c: c.update(colour=1), "got 'colour' as well"),
    (lambda c: c.update(steps="many"), r"config\.steps: expected int, got str"),
    (lambda c: c.update(steps=0), "steps: expected at least 1, got 0"),
    (lambda c: c.update(tolerance=-0.1), "tolerance: expected at least 0, got -0.1"),
    (lambda c: c.update(trial=False), "repeats: expected at least 3, .* got 1; trial = true allows it"),
    (lambda c: c.update(repeats=3, trial=False, seeds=[1, 2]), r"seeds: expected 3 different ones, .* got \[1, 2\]"),
    (lambda c: c.update(seeds=[1, 1], repeats=2), "seeds: expected 2 different ones"),
    (lambda c: c.update(turns=2), "turns: expected a number between evaluations and steps, 3 and 24, got 2"),
    (lambda c: c.update(turns=25), "turns: expected a number between evaluations and steps, 3 and 24, got 25"),
    (lambda c: c.update(device="tpu"), "device: expected 'cpu', 'cuda' or 'cuda:1', got 'tpu'"),
    (
        lambda c: c.update(device="cuda:99"),
        r"device: expected 'cpu' or a CUDA device, of which torch sees \d here, got 'cuda:99'",
    ),
    (lambda c: c.update(arm=[DENSE]), "arm: expected at least two tables"),
    (lambda c: c.update(arm=[RIGL, DENSE]), "expected the first to be the reference, of kind 'dense', got 'sparse'"),
    (lambda c: c.update(arm=[DENSE, DENSE]), "expected a different name for each, got 'dense', 'dense'"),
    (lambda c: c.update(arm=[DENSE, {"kind": "sparse"}]), "expected a different name for each, got 'dense', None"),
    (lambda c: c.update(task="tiny"), "task: expected 'module:function', got 'tiny'"),
    (
        lambda c: c.update(task="no_such_module:task"),
        "task: expected a module in this folder or an installed one, got 'no_",
    ),
    (lambda c: c.update(task="tiny:Circles"), "task: expected a function of tiny .*Squares.*, got 'Circles'"),
    (lambda c: c.update(arguments={"size": 3}), r"arguments: expected those that tiny:Squares takes, got {'size': 3}"),
    (lambda c: c.update(arguments={"f": print}), "config: expected texts, finite numbers, lists and tables"),
    (lambda c: c.update(tolerance=float("nan")), "config: expected texts, finite numbers, lists and tables"),
    (lambda c: c.update(repeats=3, trial=False, seeds=[1, 2, 3, 3]), "seeds: expected 3 different ones"),
    (lambda c: c.update(repeats=3), "trial: expected fewer than 3 repeats, as nothing may be called saved, got 3"),
    (lambda c: c.update(arm=[DENSE, {"name": "a", "kind": ["dense"]}]), r"kind: expected one of dense, .* got \['dense'\]"),
]
WRONG_ARM = [
    ({"kind": "sparser"}, f"{ARM}kind: expected one of dense, sparse, .* got 'sparser'"),
    ({"kind": "dense", "sparsity": 0.5}, f"{ARM.rstrip(' ')} expected name, precision, lr, got 'sparsity' as well"),
    ({"kind": "dense", "precision": "float8"}, f"{ARM}precision: expected 'float32' or 'bfloat16', got 'float8'"),
    ({"kind": "sparse", "method": "rigel"}, f"{ARM}method: expected one of static, .* got 'rigel'"),
    ({"kind": "sparse", "choices": {"interval": 3}}, f"{ARM}choices: expected arguments of rigl .* got 'interval'"),
    ({"kind": "sparse", "choices": {"drop_fraction": 2.0}}, rf"{ARM}expected drop_fraction in \[0, 1\], got 2.0"),
    ({"kind": "sparse", "sparsity": 1.5}, f"{ARM}.*1.5"),
    ({"kind": "sparse", "exclude": ["head"]}, f"{ARM}.*'head', which matches none"),
    ({"kind": "early stop", "patience": 0}, f"{ARM}patience: expected at least 1"),
    ({"kind": "early stop", "improvement": -1}, f"{ARM}improvement: expected at least 0"),
    ({"kind": "equal flops", "steps": -1}, f"{ARM}steps: expected at least 1, or 0"),
    ({"kind": "low rank", "share": 2}, rf"{ARM}share: expected a number in \(0, 1\]"),
    ({"kind": "equal flops", "matches": "SET"}, f"{ARM}matches: expected an arm that matches no other .* got 'SET'"),
]


@pytest.mark.parametrize(("change", "sentence"), WRONG)
def test_what_is_wrong_is_named(tmp_path, change, sentence):
    values = config()
    change(values)
    with pytest.raises(ValueError, match=sentence):
        compare(values, folder=tmp_path, meter=FakeMeter())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("table", "sentence"), WRONG_ARM)
def test_what_is_wrong_in_an_arm_is_named(tmp_path, table, sentence):
    with pytest.raises(ValueError, match=sentence):
        compare(config(RIGL, {"name": "another", **table}), folder=tmp_path, meter=FakeMeter())
    assert not list(tmp_path.iterdir())


def test_an_arm_matches_the_only_sparse_one():
    chosen, task = config_of(config(RIGL, {"name": "short", "kind": "equal flops"})), Squares()
    contenders = contenders_of(chosen, task)
    assert rival_of(contenders["short"], contenders) is contenders["RigL"]
    assert rival_of(contenders["RigL"], contenders) is None
    two = config_of(config(RIGL, RIGL | {"name": "SET"}, {"name": "short", "kind": "equal flops"}))
    with pytest.raises(ValueError, match=r"matches: .* not exactly one sparse arm \('RigL', 'SET'\), got none"):
        contenders_of(two, task)


class Plain(Squares):
    """Without the optional abilities."""

    def model(self):
        return super().model()

    def optimizer(self, model):
        return super().optimizer(model)


@pytest.mark.parametrize(
    ("table", "sentence"), [({"kind": "narrower"}, r"model\(width=1.0\)"), ({"kind": "dense", "lr": 0.1}, r"lr=None\)")]
)
def test_an_arm_asks_for_what_the_task_has_not(table, sentence):
    with pytest.raises(ValueError, match=rf"arm 'another': .*{sentence}.* got Plain without"):
        contenders_of(config_of(config(RIGL, {"name": "another", **table})), Plain())


def test_toml(tmp_path):
    path = tmp_path / "squares.toml"
    path.write_text(
        'title = "Squares"\ntask = "tiny:Squares"\nsteps = 100\ntolerance = 0.1\n'
        '[[arm]]\nname = "dense"\nkind = "dense"\n[[arm]]\nname = "RigL"\nkind = "sparse"\nchoices.update_interval = 4\n'
    )
    found = config_of(path)
    assert (found.repeats, found.all_seeds, found.idle_s) == (3, (0, 1, 2), 30.0)
    assert found.arm[1] == {"name": "RigL", "kind": "sparse", "choices": {"update_interval": 4}}
    assert config_of(found.values) == found
    path.write_text("title = ")
    with pytest.raises(ValueError, match=r"squares\.toml: expected TOML, got"):
        config_of(path)


def test_quick_is_a_trial():
    whole = config_of(config(steps=400, trial=False, repeats=3, idle_s=30.0))
    short = quick(whole)
    assert (short.trial, short.repeats, short.steps, short.idle_s) == (True, 1, 20, 0.0)
    assert quick(config_of(config(steps=6))).steps == 4
    assert isinstance(short, Config)


# ---- the task --------------------------------------------------------------------------------------------------------------


class Global(Squares):
    def batches(self, seed):
        while True:
            yield torch.randn(4, 16), torch.randn(4, 1)


class Shared(Squares):
    numbers = torch.Generator()

    def batches(self, seed):
        self.numbers.manual_seed(seed)
        while True:
            yield torch.randn(4, 16, generator=self.numbers), torch.zeros(4, 1)


class Later(Squares):
    """As a loader that shuffles anew after an epoch: the first batches do not tell."""

    def batches(self, seed):
        yield from islice(super().batches(seed), 5)
        while True:
            yield torch.randn(8, 16), torch.randn(8, 1)


def test_arms_that_see_other_batches_later_are_found_in_that_turn(tmp_path):
    values = config(task=f"{__name__}:Later")
    with pytest.raises(
        ValueError, match=r"expected the same batches of .*Later for all arms, got another one for 'RigL' at step 8"
    ):
        compare(values, folder=tmp_path, meter=FakeMeter())


class One(Squares):
    def batches(self, seed):
        yield from [next(super().batches(seed))]


class Texts(Squares):
    def batches(self, seed):
        while True:
            yield "no tensor"


class Once(Squares):
    def test_batches(self, seed):
        yield from super().test_batches(seed)


class Nameless(Squares):
    metric = None


def number():
    return 3


@pytest.mark.parametrize(
    ("name", "error", "sentence"),
    [
        ("Global", ValueError, "expected the same batches of .* whenever they are asked for with the same seed"),
        ("Shared", ValueError, "expected the same batches of .* make a torch.Generator in batches"),
        ("One", ValueError, "expected batches without end from .*, got 1"),
        ("Texts", TypeError, "expected batches with tensors from .*, got str without"),
        ("Once", TypeError, "expected test_batches of .* as a list, got generator"),
        ("Nameless", TypeError, "expected .*'s metric to be of type str, got None"),
        ("number", TypeError, "expected .*number to return a sparse_ext.compare.Task, got int"),
    ],
)
def test_a_task_that_is_none_is_refused(name, error, sentence):
    with pytest.raises(error, match=sentence):
        load(f"{__name__}:{name}", {})


def test_a_module_that_lacks_another_one_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "lacking.py").write_text("import no_such_module_either\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_module_either"):
        load("lacking:task", {})


def test_the_example_in_the_documentation_is_a_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    lines = (Task.__doc__ or "").partition("Example:\n")[2].splitlines()
    code = "\n".join(line[8:] for line in lines)
    (tmp_path / "squares.py").write_text(f"import torch\nfrom torch import nn\nfrom sparse_ext.compare import Task\n{code}\n")
    task = load("squares:task", {})
    assert isinstance(task.model(), nn.Module)
    assert task.samples(next(task.batches(0))) == 64
    record = compare(config(task="squares:task", arm=[DENSE, RIGL]), folder=tmp_path / "out", meter=FakeMeter())
    assert record.arms[1].runs[0].score is not None

"""Every optimizer of torch.optim: its state follows, or it is refused, as docs/optimizers.md says; never anything else."""

import re

import pytest
import torch
from followed import TABLE, assert_follows, verdict_holds

CLASSES = TABLE["optimizers"]("torch.optim")


def documented(module):
    """{name: verdict} in docs/optimizers.md."""
    section = re.search(rf"^## {re.escape(module)},.*?(?=^## |\Z)", TABLE["TARGET"].read_text(), re.M | re.S).group()
    return dict(re.findall(r"^\| `(\w+)` \| ([\w ]+?) \|", section, re.M))


@pytest.mark.parametrize("name", CLASSES)
def test_every_optimizer_follows_or_is_refused(name):
    verdict = verdict_holds(CLASSES[name])
    assert documented("torch.optim").get(name, verdict) == verdict


OPTIONS = {
    "SGD": [{"momentum": 0.9, "nesterov": True}, {"weight_decay": 0.1}, {"momentum": 0.9, "maximize": True}],
    "AdamW": [{"amsgrad": True}, {"fused": True}, {"foreach": True}, {"lr": torch.tensor(0.01)}],
    "Adagrad": [{"initial_accumulator_value": 0.1}, {"lr_decay": 0.1}],
    "Rprop": [{"lr": 0.05}, {"etas": (0.4, 1.3)}],
    "RMSprop": [{"centered": True, "momentum": 0.9}],
    "Adamax": [{"eps": 1e-3}],
    "ASGD": [{"t0": 1}],
    "NAdam": [{"decoupled_weight_decay": True, "weight_decay": 0.1}],
}


@pytest.mark.parametrize(
    ("name", "options"), [(name, options) for name, several in OPTIONS.items() for options in several], ids=str
)
def test_options_count(name, options):
    assert_follows(lambda parameters: getattr(torch.optim, name)(parameters, **{"lr": 0.01, **options}))

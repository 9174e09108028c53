"""Every optimizer of packages that many train with: its state follows, or it is refused; never anything else."""

import importlib.util

import pytest
import torch
from followed import TABLE, assert_follows, refusal, verdict_holds
from torch import nn

import sparse_ext as sx

MODULES = [module for module, name in TABLE["PACKAGES"].items() if name != "torch" and importlib.util.find_spec(name)]
CLASSES = [(module, name) for module in MODULES for name in TABLE["optimizers"](module)]


@pytest.mark.parametrize(("module", "name"), CLASSES)
def test_every_optimizer_follows_or_is_refused(module, name):
    kind = TABLE["optimizers"](module)[name]
    if module == "torchao.optim":  # which compiles for seconds
        assert TABLE["verdict"](kind)[0] in ("refused", "not made")
    else:
        verdict_holds(kind)


def test_wrappers_of_pytorch_optimizer_follow():
    others = pytest.importorskip("pytorch_optimizer")
    adamw = torch.optim.AdamW
    assert_follows(lambda p: others.Lookahead(adamw(p, lr=0.01), k=3))
    assert_follows(lambda p: others.Lookahead(torch.optim.SGD(p, lr=0.01, momentum=0.9), k=2, pullback_momentum="pullback"))
    assert_follows(lambda p: others.SAM(p, adamw, rho=0.1, lr=0.01))
    assert_follows(lambda p: others.OrthoGrad(adamw(p, lr=0.01)))


def test_schedule_free_optimizers_follow():
    others = pytest.importorskip("schedulefree")
    assert_follows(lambda p: others.AdamWScheduleFree(p, lr=0.01, warmup_steps=3))
    assert_follows(lambda p: others.ScheduleFreeWrapper(torch.optim.SGD(p, lr=0.01), momentum=0.9))


@pytest.mark.parametrize(("module", "name"), [("torchao.optim", "AdamW8bit"), ("bitsandbytes.optim", "AdamW8bit")])
def test_quantized_state_is_refused_where_there_is_any(module, name):
    kind = getattr(pytest.importorskip(module), name)
    large, small = sx.SparseLinear(128, 64, sparsity=0.5), sx.SparseLinear(12, 20)
    with pytest.raises(ValueError, match=f"got {name}: expected optimizer state"):
        sx.Sparsifier(nn.Sequential(large), kind(large.parameters()), sx.RigL(), total_steps=10)
    sx.Sparsifier(nn.Sequential(small), kind(small.parameters()), sx.RigL(), total_steps=10)


def test_an_accelerated_optimizer_follows():
    accelerate = pytest.importorskip("accelerate")
    prepare = accelerate.Accelerator(cpu=True).prepare_optimizer
    assert_follows(lambda p: prepare(torch.optim.AdamW(p, lr=0.01)))
    layer = sx.SparseLinear(12, 20)
    optimizer = prepare(torch.optim.Adafactor(layer.parameters()))
    assert "treats matrices otherwise" in refusal(nn.Sequential(layer), optimizer)


def test_a_fabric_optimizer_follows():
    fabric = pytest.importorskip("lightning.fabric").Fabric(accelerator="cpu", devices=1)
    layer = sx.SparseLinear(12, 20)
    model, optimizer = fabric.setup(nn.Sequential(layer), torch.optim.AdamW(layer.parameters(), lr=0.01))
    sparsifier = sx.Sparsifier(model, optimizer, sx.SET(update_interval=2, t_end=1.0), total_steps=10)
    for _ in range(4):
        fabric.backward(model(torch.randn(4, 12)).square().mean())
        optimizer.step()
        sparsifier.step()
    assert sparsifier.report().updates == 2

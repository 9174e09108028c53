"""Models that are wrapped for distributed training are converted before that; other wrappers do not mind."""

import copy

import pytest
import torch
from torch import nn

import sparse_ext as sx

dist = pytest.importorskip("torch.distributed")
if not dist.is_available():
    pytest.skip("this torch has no torch.distributed", allow_module_level=True)

X = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))


def mlp(sparse=False):
    model = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))
    return sx.sparsify_(model, 0.5) if sparse else model


@pytest.fixture
def group():
    """A group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def by_ddp(model):
    return nn.parallel.DistributedDataParallel(model)


def by_fsdp(model):
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True)


def by_fsdp2(model):
    from torch.distributed.fsdp import fully_shard

    return fully_shard(model)


def inside_by_fsdp2(model):
    return nn.Sequential(by_fsdp2(model), nn.ReLU())


@pytest.mark.parametrize("wrap", [by_ddp, by_fsdp, by_fsdp2, inside_by_fsdp2])
@pytest.mark.parametrize("convert", [lambda model: sx.sparsify_(model, 0.5), sx.densify_], ids=["sparsify_", "densify_"])
def test_a_wrapped_model_is_not_converted(group, wrap, convert):
    model = wrap(mlp(sparse=convert is sx.densify_))
    before = repr(model)
    where = "0" if wrap is inside_by_fsdp2 else "its root"
    with pytest.raises(
        ValueError, match=rf"ify_: expected a model that is not wrapped .*, got \w+ at {where}, .*convert the model"
    ):
        convert(model)
    assert repr(model) == before


def compiled(model):
    model = torch.compile(model, backend="eager")
    model(X)
    return model


@pytest.mark.parametrize("wrap", [nn.DataParallel, compiled])
def test_other_wrappers_take_the_new_layers(wrap):
    model = mlp()
    wrapped = wrap(model)
    sx.sparsify_(wrapped, 0.5)
    torch.testing.assert_close(wrapped(X), sx.densify_(copy.deepcopy(model))(X))

"""Names of layers: what wraps a model adds nothing to them, and parts of a model keep every word of theirs."""

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel
from training import OPTIMIZERS, masks, run

import sparse_ext as sx
from sparse_ext.ops import LAYOUTS

RIGL = sx.RigL(drop_fraction=0.4, update_interval=3, t_end=1.0)


class Residual(nn.Module):
    """As many libraries have it: a part of the model that happens to be called `module`."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return x + self.module(x)


class Twofold(Residual):
    """Its `fc` and its `module.fc` are two layers."""

    def __init__(self, module, fc):
        super().__init__(module)
        self.fc = fc

    def forward(self, x):
        return self.fc(super().forward(x))


class Fabric(nn.Module):
    """As Lightning Fabric wraps a model, which may already be wrapped."""

    def __init__(self, forward_module, original_module=None):
        super().__init__()
        self._forward_module = forward_module
        self._original_module = original_module or forward_module

    def forward(self, x):
        return self._forward_module(x)


def model():
    """Parts whose names differ only in a part called `module`."""
    torch.manual_seed(0)
    fc = [sx.SparseLinear(12, 12, sparsity=0.7) for _ in range(3)]
    twofold = Twofold(nn.Sequential(), fc[1])
    twofold.module.add_module("fc", fc[0])
    return nn.Sequential(twofold, Residual(fc[2]), nn.Linear(12, 6))


NAMES = ["0.module.fc", "0.fc", "1.module"]


def compiled_part(inner):
    inner[0] = torch.compile(inner[0], backend="eager")
    return inner


def checkpointed_part(inner):
    inner[0] = checkpoint_wrapper(inner[0])
    return inner


WRAPPERS = {
    "none": lambda inner: inner,
    "DataParallel": nn.DataParallel,
    "AveragedModel": AveragedModel,
    "compile": lambda inner: torch.compile(inner, backend="eager"),
    "compiled part": compiled_part,
    "checkpointed part": checkpointed_part,
    "Fabric": Fabric,
    "Fabric around DataParallel": lambda inner: Fabric(nn.DataParallel(inner), inner),
    "compiled Fabric": lambda inner: torch.compile(Fabric(inner), backend="eager"),
}


def trainer(model, method=RIGL, **options):
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    return model, optimizer, sx.Sparsifier(model, optimizer, method, total_steps=100, **options)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_add_nothing_to_a_name(wrapper):
    """So the state of a wrapped model's Sparsifier is that of the plain one's, and random growth is the same."""
    outcomes, method = [], {"*.module.*": sx.SET(0.4, 3, 1.0), "0.fc": RIGL, "1.module": sx.Static()}
    for wrap in (WRAPPERS["none"], WRAPPERS[wrapper]):
        trio = trainer(wrap(model()), method)
        assert [layer.name for layer in trio[2].report().layers] == NAMES
        assert run(*trio, range(1, 8)) == 2
        outcomes.append((masks(trio[0]), trio[2].state_dict()))
    for expected, mask in zip(*(found.values() for found, _ in outcomes), strict=True):
        assert torch.equal(mask, expected)
    trainer(model(), method)[2].load_state_dict(outcomes[1][1])


def test_copies_are_found_by_name():
    _, _, sparsifier = trainer(model())
    sparsifier.track(AveragedModel(model()))


def test_names_that_collide_are_refused():
    """A wrapper with parts beside what it wraps."""
    wrapper = Fabric(nn.ModuleDict({"fc": sx.SparseLinear(4, 4)}))
    wrapper.fc = sx.SparseLinear(4, 4)
    with pytest.raises(ValueError, match=r"different names, got two named 'fc': '_forward_module.fc' and 'fc'"):
        trainer(wrapper)


def test_a_state_of_version_2_had_shorter_names():
    """It dropped every part called `module`."""
    trio = trainer(nn.Sequential(Residual(sx.SparseLinear(12, 12, sparsity=0.7)), nn.Linear(12, 6)))
    run(*trio, range(1, 8))
    state = trio[2].state_dict()
    for key, value in state.items():
        if isinstance(value, dict) and "0.module" in value:
            state[key] = {"0": value["0.module"]}
    state["version"] = 2
    again = trainer(trio[0])[2]
    again.load_state_dict(state)
    assert str(again.report()) == str(trio[2].report())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_model_without_values_is_refused(layout):
    """Its parameters will be other ones, which no optimizer has."""
    model = nn.Sequential(sx.SparseLinear(12, 9, layout=layout, device="meta"))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError, match=r"expected layers with values, got '0' on meta; before this, call to_empty"):
        sx.Sparsifier(model, optimizer, sx.Static(), total_steps=9)

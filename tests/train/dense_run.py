"""The reference of test_any_run.py: a run of dense layers in plain PyTorch, with masks.

Weights, moments and averages are matrices, 0 outside of the masks.
"""

import copy

import torch
from torch import nn
from training import OPTIMIZERS

import sparse_ext as sx
from sparse_ext.nn import sparse_layers

# A small epsilon would turn what rounding leaves of a gradient into whole steps.
STEPS_BY = {"sgd": OPTIMIZERS["sgd"], "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, eps=1e-3, weight_decay=0.1)}


class DenseRun:
    """Dense layers of the same values and names, an optimizer of its own, and masks by layer's name."""

    def __init__(self, model, optimizer):
        self.model = nn.Sequential(*(dense_of(module) for module in model))
        self.model.load_state_dict({name: value.clone() for name, value in dense_state(model).items()})
        self.masks = {name: layer.mask() for name, layer in sparse_layers(model).items()}
        self.optimizer, self.average = STEPS_BY[optimizer](self.model.parameters()), None

    def matrices(self, name):
        """All that has one value for each position of a layer."""
        weight = self.model.get_submodule(name).weight
        moments = [value for value in self.optimizer.state.get(weight, {}).values() if value.dim()]
        average = [] if self.average is None else [self.average.get_submodule(name).weight]
        return [one for one in (weight, weight.grad, *moments, *average) if one is not None]

    @torch.no_grad()
    def take(self, masks):
        """What is outside of these masks is 0; what is new in them was."""
        for name, mask in masks.items():
            for one in self.matrices(name):
                one.mul_(mask)
        self.masks = masks

    def gradients(self):
        """The dense gradients; afterwards the weights have those of their masks alone."""
        dense = {}
        for name, mask in self.masks.items():
            weight = self.model.get_submodule(name).weight
            if weight.grad is not None:
                dense[name] = weight.grad.clone()
                weight.grad.mul_(mask)
        return dense


def dense_of(module):
    return nn.Linear(module.in_features, module.out_features) if isinstance(module, sx.SparseLinear) else copy.deepcopy(module)


def dense_state(model):
    """The state dict of the dense model with the same values."""
    layers = sparse_layers(model)
    values = {name: value.detach() for name, value in model.named_parameters()}
    return values | {f"{name}.weight": layer.dense_weight() for name, layer in layers.items()}

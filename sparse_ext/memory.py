"""`step_memory`: the peak bytes of a training step, by what they hold, as torch's own allocator hands them out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from .nn import sparse_layers
from .ops import layout_named, operands_of
from .report.run import Memory
from .train.optimizers.found import find
from .train.optimizers.wrappers import sequence

_CPU, _CUDA = 0, 1  # device types, as the profiler numbers them


def step_memory(step: Callable[[], Any], model: nn.Module, optimizer: Any, kept: Iterable[torch.Tensor] = ()) -> Memory:
    """Runs one training step and says how many bytes it held at its peak.

    Weights, indices, gradients and optimizer state are counted tensor by tensor, memory that several share once. All else
    that the step allocates counts as activations: what autograd saves, outputs, workspaces of kernels. torch's profiler tells
    of every allocation while the step runs. The batch, and what was there before and is neither the model's nor the
    optimizer's, does not count: neither does a workspace that earlier steps have left to later ones.

    Args:
        step: forward pass, backward pass and the optimizer's step, without arguments. It leaves the gradients where they are:
            no `zero_grad` after the backward pass.
        model: dense or sparse, on one device, CPU or CUDA. Gradients from before are dropped.
        optimizer: holds its parameters; or several that do.
        kept: what else stays from step to step, such as the signals of a method; it counts as optimizer state.

    Returns:
        Bytes. `activations` is the peak of what counts as such, and `total` the peak of all together, which may be less than
        the sum: gradients come while activations go.

    Raises:
        TypeError: `step` cannot be called.
        ValueError: the model has no parameters, or none of them has a gradient after the step.

    Example:
        found = step_memory(lambda: (loss(model(x), y).backward(), optimizer.step()), model, optimizer)
    """
    if not callable(step):
        raise TypeError(f"step_memory: expected a function that makes one training step, got {type(step).__name__}")
    parameters, kept = list(model.parameters()), list(kept)
    if not parameters:
        raise ValueError(f"step_memory: expected a model with parameters, got a {type(model).__name__} without any")
    for parameter in parameters:
        parameter.grad = None
    lasting = _storages([*parameters, *index_tensors(model), *state_tensors(optimizer, parameters), *kept])
    events, peak = _recorded(step, parameters[0].device)
    gradients = _storages(parameter.grad for parameter in parameters if parameter.grad is not None)
    if not gradients:
        raise ValueError(
            "step_memory: expected a step that leaves gradients, got none of any parameter; call zero_grad before the step"
        )
    state = _storages([*state_tensors(optimizer, parameters), *kept])
    moments = _moments(events, gradients.keys() | state.keys())
    return Memory(
        weights=bytes_of(parameters),
        indices=bytes_of(index_tensors(model)),
        gradients=sum(gradients.values()),
        optimizer_state=sum(state.values()),
        activations=max((moment.others for moment in moments), default=0),
        total=sum(lasting.values()) + (max((moment.all for moment in moments), default=0) if peak is None else peak),
    )


# ---- tensors, each memory once --------------------------------------------------------------------------------------------


def index_tensors(model: nn.Module) -> list[torch.Tensor]:
    """Where the non-zeros of a model's sparse layers are: their patterns, and what kernels read of them. Also on "meta"."""
    found: list[torch.Tensor] = []
    for layer in sparse_layers(model).values():
        found += [*layer.buffers(), *operands_of(layout_named(layer.layout), layer.pattern)]
    return found


def state_tensors(optimizer: Any, parameters: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """What optimizers keep of these parameters, wherever they keep it, and of nobody: counters of steps, for example."""
    return [one.tensor for one in find(sequence(optimizer), parameters)]


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """The bytes behind these tensors; of those on "meta", what they would take."""
    return sum(_storages(tensors).values())


def _storages(tensors: Iterable[torch.Tensor]) -> dict[int, int]:
    """{address: bytes}; on "meta", where there is no memory, {number: bytes}."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return {one.data_ptr() or one._cdata: one.nbytes() for one in storages}


# ---- what the allocator does ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Event:
    """An allocation, or with negative bytes the end of one."""

    address: int
    bytes: int


@dataclass(frozen=True)
class _Moment:
    """Bytes that the step holds: all; and without those of gradients and optimizer state."""

    all: int
    others: int


@contextmanager
def _quiet() -> Iterator[None]:
    """The profiler tells the standard error stream of every start, which tears progress bars apart."""
    before = os.environ.get("KINETO_LOG_LEVEL")
    os.environ["KINETO_LOG_LEVEL"] = before or "6"  # above all of its levels
    try:
        yield
    finally:
        if before is None:
            del os.environ["KINETO_LOG_LEVEL"]


def _recorded(step: Callable[[], Any], device: torch.device) -> tuple[list[_Event], int | None]:
    """What the step allocates on the device, in order; and the peak, where the allocator keeps one of its own."""
    held = None
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
    with _quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recording:
        step()
    peak = None if held is None else torch.cuda.max_memory_allocated(device) - held
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        recording.export_chrome_trace(str(path))
        trace = json.loads(path.read_text())["traceEvents"]
    wanted = (_CUDA, device.index) if device.type == "cuda" else (_CPU, -1)
    found = [one["args"] for one in sorted(trace, key=lambda one: one.get("ts", 0)) if one.get("name") == "[memory]"]
    return [_Event(one["Addr"], one["Bytes"]) for one in found if (one["Device Type"], one["Device Id"]) == wanted], peak


def _moments(events: Iterable[_Event], kept: Iterable[int]) -> list[_Moment]:
    """After each event. kept: addresses of gradients and optimizer state, whose last allocation there is theirs."""
    events = list(events)
    last = {event.address: number for number, event in enumerate(events) if event.bytes > 0}
    theirs = {last[address] for address in kept if address in last}
    moments, everything, others = [], 0, 0
    for number, event in enumerate(events):
        everything += event.bytes
        others += 0 if number in theirs else event.bytes
        moments.append(_Moment(everything, others))
    return moments

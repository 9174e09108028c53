"""`lasting`: for functions that make tensors which outlive the call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])


def lasting(function: F) -> F:
    """Runs the function without gradients and outside of inference mode.

    So what it makes can be written in place, and saved for backward passes, also if an evaluation called it first.
    """
    return torch.inference_mode(False)(torch.no_grad()(function))

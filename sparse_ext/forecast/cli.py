"""`python -m sparse_ext estimate`: what training will cost, dense beside sparse, for a GPT, a ViT or a model of your own.

    python -m sparse_ext estimate gpt --width 8192 --depth 80 --heads 64 --sparsity 0.9 --layout csr --method rigl --ranks 64
    python -m sparse_ext estimate my_models:build --sparsity 0.9 --tokens 4096

A function of your own takes no arguments and returns a model, or (model, batch). It is called under torch.device("meta"), where
nothing is allocated.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, fields
from typing import Any

import torch
from torch import nn

from sparse_ext.entry import function_named
from sparse_ext.methods import METHODS
from sparse_ext.nn.arguments import check_size
from sparse_ext.nn.distributions import DISTRIBUTIONS
from sparse_ext.ops import FLOATING, LAYOUTS

from .estimate import estimate
from .models import MODELS
from .optimizer import OPTIMIZERS


def parse(arguments: list[str]) -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m sparse_ext estimate", description=__doc__, formatter_class=form)
    parser.add_argument("model", help=f"{', '.join(MODELS)}: `estimate gpt --help` lists the sizes of each; or module:function")
    parser.add_argument("--sparsity", type=float, help="share of zeros, such as 0.9; default: the layout's")
    parser.add_argument("--layout", default="auto", choices=LAYOUTS, help="default: %(default)s")
    parser.add_argument("--method", default="static", choices=METHODS, help="default: %(default)s")
    parser.add_argument("--optimizer", default="adamw", choices=OPTIMIZERS, help="default: %(default)s")
    parser.add_argument("--ranks", type=int, default=1, help="processes that train the model together")
    parser.add_argument("--steps", type=int, default=10_000, help="of the run; default: %(default)s")
    parser.add_argument("--distribution", default="erk", choices=DISTRIBUTIONS, help="default: %(default)s")
    parser.add_argument("--exclude", nargs="+", default=[], help="names of layers that stay dense, or patterns of names")
    parser.add_argument("--dtype", default="float32", choices=sorted(str(one).removeprefix("torch.") for one in FLOATING))
    parser.add_argument("--tokens", type=int, help="tokens of one rank in a step, if module:function returns no batch")
    parser.add_argument("--device", help='as the table of measurements names it, such as "cuda 9.0"; default: this CPU')
    parser.add_argument("--json", action="store_true", help="prints all figures as JSON")
    for one in fields(MODELS[arguments[0]]) if arguments and arguments[0] in MODELS else ():
        parser.add_argument(f"--{one.name}", type=int, default=one.default, help=f"of {arguments[0]}; default: %(default)s")
    return parser.parse_args(arguments)


def command(arguments: list[str]) -> None:
    """Prints the estimate."""
    options = parse(arguments)
    try:
        with torch.device("meta"):
            model, batch = _built(options)
        model = model.to(getattr(torch, options.dtype))
        if isinstance(batch, torch.Tensor) and batch.is_floating_point():
            batch = batch.to(getattr(torch, options.dtype))
        found = estimate(
            model, options.sparsity, options.layout, options.method, options.optimizer, options.tokens, options.ranks,
            inputs=batch, total_steps=options.steps, distribution=options.distribution, exclude=options.exclude,
            device=options.device,
        )  # fmt: skip
    except (TypeError, ValueError, ModuleNotFoundError) as error:
        sys.exit(str(error))
    print(json.dumps(asdict(found), indent=1) if options.json else found)


def _built(options: argparse.Namespace) -> tuple[nn.Module, Any]:
    """The model, and a batch or None."""
    if options.model in MODELS:
        kind = MODELS[options.model]
        sizes = {one.name: check_size("estimate", one.name, getattr(options, one.name), 1) for one in fields(kind)}
        return kind(**sizes).build()
    if ":" not in options.model:
        raise ValueError(f"model: expected {', '.join(MODELS)} or 'module:function', got {options.model!r}")
    made = function_named(options.model, "model")()
    model, batch = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected {options.model} to return a model, or (model, batch), got {type(model).__name__}")
    return model, batch

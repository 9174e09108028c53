"""`python -m sparse_ext estimate`: what training a model will cost, of a shape that is known by name, or of one's own.

    python -m sparse_ext estimate gpt --width 8192 --depth 80 --heads 64 --sparsity 0.9 --layout csr --method rigl --ranks 64
    python -m sparse_ext estimate my_models:build --sparsity 0.9 --tokens 4096

A function of one's own takes no arguments and returns a model, or (model, batch). It is called under torch.device("meta").
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparse_ext.methods import METHODS
from sparse_ext.nn.distributions import DISTRIBUTIONS
from sparse_ext.ops import FLOATING, LAYOUTS

from .estimate import estimate
from .models import MODELS
from .optimizer import OPTIMIZERS


def parse(arguments: list[str]) -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m sparse_ext estimate", description=__doc__, formatter_class=form)
    parser.add_argument("model", help=f"{', '.join(MODELS)}, each with options of its own; or module:function")
    parser.add_argument("--sparsity", type=float, help="share of zeros; default: the layout's")
    parser.add_argument("--layout", default="auto", choices=LAYOUTS)
    parser.add_argument("--method", default="static", choices=METHODS)
    parser.add_argument("--optimizer", default="adamw", choices=OPTIMIZERS)
    parser.add_argument("--ranks", type=int, default=1, help="processes that train the model together")
    parser.add_argument("--steps", type=int, default=10_000, help="of the run; default: %(default)s")
    parser.add_argument("--distribution", default="erk", choices=DISTRIBUTIONS)
    parser.add_argument("--exclude", nargs="+", default=[], help="names of layers that stay dense, or patterns of names")
    parser.add_argument("--dtype", default="float32", choices=sorted(str(one).removeprefix("torch.") for one in FLOATING))
    parser.add_argument("--tokens", type=int, help="of one rank in a step, for a module:function without a batch")
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
    except (TypeError, ValueError) as error:
        sys.exit(f"{error}")
    print(json.dumps(asdict(found), indent=1) if options.json else found)


def _built(options: argparse.Namespace) -> tuple[nn.Module, Any]:
    """The model, and a batch or None."""
    if options.model in MODELS:
        kind = MODELS[options.model]
        return kind(**{one.name: getattr(options, one.name) for one in fields(kind)}).build()
    module, _, function = options.model.partition(":")
    if not function:
        raise ValueError(f"expected {', '.join(MODELS)} or module:function, got {options.model!r}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        make = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"expected module:function, got {options.model!r}: {error}") from error
    made = make()
    return made if isinstance(made, tuple) else (made, None)

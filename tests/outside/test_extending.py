"""What docs/extending.md promises: its code is the tested code, short, from public names; and what register_* refuses."""

import ast
import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import ell
import momentum
import pytest
import torch

import sparse_ext as sx
from sparse_ext.methods import DropAndGrow
from sparse_ext.ops import Kernels, Layout, Linear

DOCS = Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.mark.parametrize(("module", "most"), [(ell, 120), (momentum, 30)], ids=["ell", "momentum"])
def test_the_code_of_the_docs_is_short_and_uses_public_names(module, most):
    code = Path(module.__file__).read_text()
    assert code in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S)
    assert len(code.splitlines()) <= most
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("sparse_ext"):
            assert node.module.count(".") < 2
            assert {alias.name for alias in node.names} - {"methods", "train"} <= set(
                importlib.import_module(node.module).__all__
            )
        assert not (isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"))


class Operands(NamedTuple):
    columns: torch.Tensor


class Half(Kernels):
    """Defines one of three."""

    forward = ell.EllLinear.forward


def without(name):
    """The layout under another name, with one thing less."""
    kept = {"name": "mine", "pattern": ell.EllPattern, "operands": ell.EllOperands, "products": ell.Ell.products}
    methods = {"allocate": ell.Ell.allocate, "prepare_": ell.Ell.prepare_}
    return type("Mine", (Layout,), {key: staticmethod(value) if key in methods else value
                                    for key, value in (kept | methods).items() if key != name})  # fmt: skip


@pytest.mark.parametrize("name", ["name", "pattern", "operands", "products", "allocate", "prepare_"])
def test_an_incomplete_layout_is_refused(name):
    with pytest.raises(TypeError, match=rf"expected .*\b{name}\b"):
        sx.register_layout(without(name))
    assert "mine" not in sx.ops.LAYOUTS


@pytest.mark.parametrize(
    ("attributes", "error", "sentence"),
    [
        ({"operands": tuple}, TypeError, "expected Wrong.operands to be a NamedTuple class"),
        ({"pattern": Operands}, TypeError, "expected Operands.BUFFERS"),
        ({"products": {Linear: Half}}, TypeError, "expected Half to define grad_input, grad_weight"),
        ({"products": {Linear: dict}}, TypeError, "expected a subclass of Kernels"),
        ({"name": "csr"}, ValueError, "expected a new layout name, got 'csr', which is Csr's"),
        ({"pattern": type("P", (ell.EllPattern,), {"BUFFERS": ("weight",)})}, TypeError, "names other than 'weight'"),
        ({"pattern": type("P", (ell.EllPattern,), {})}, ValueError, "expected BUFFERS that tell 'wrong' from 'ell'"),
    ],
)
def test_a_wrong_layout_is_refused_in_a_sentence(attributes, error, sentence):
    wrong = type("Wrong", (ell.Ell,), {"name": "wrong", **attributes})
    with pytest.raises(error, match=sentence):
        sx.register_layout(wrong)
    assert "wrong" not in sx.ops.LAYOUTS


def test_registering_twice_changes_nothing():
    assert sx.register_layout(ell.Ell) is ell.Ell
    assert sx.register_method("sparse-momentum")(momentum.SparseMomentum) is momentum.SparseMomentum


def test_a_wrong_method_is_refused_in_a_sentence():
    class Undecorated(DropAndGrow):
        more: ClassVar[int] = 1

    @dataclass(frozen=True)
    class Foreign:
        pass

    for wrong in (Undecorated, Foreign, momentum.SparseMomentum()):
        with pytest.raises(TypeError, match="expected a subclass of Method that is a frozen dataclass of its own"):
            sx.register_method("mine", wrong)
    with pytest.raises(ValueError, match="expected a new method name, got 'rigl', which is RigL's"):
        sx.register_method("rigl", momentum.SparseMomentum)
    assert "mine" not in sx.METHODS

"""Which modules read a child's weight themselves, as `F.linear(x, self.fc.weight)` does: a sparse one is no matrix.

At run time nothing could tell: the weight is an ordinary 1-D Parameter, which PyTorch multiplies as a vector where the lengths
happen to fit. So the source of the modules' methods is read; a module whose source is missing is taken not to read any.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

from torch import nn

Path = tuple[str, ...]  # names of attributes; "*" for an element of a container

# Methods that prepare a dense model, or move its weights elsewhere.
_OTHER_PURPOSE = re.compile(r"(^|_)(init[a-z]*|reset|load|save|tie|fuse|convert|export)(_|$)")
# What is the same of a packed weight.
_HARMLESS = {"device", "dtype", "is_cuda", "is_meta", "requires_grad"}


def readers(model: nn.Module) -> dict[nn.Module, str]:
    """{module: "Class.method"}: modules whose weight a method of another one reads as a matrix; PyTorch's own classes aside."""
    known: dict[type, list[tuple[str, Path]]] = {}
    found: dict[nn.Module, str] = {}
    for parent in model.modules():
        kind = type(parent)
        if kind not in known:
            known[kind] = list(_reads(kind))
        for method, path in known[kind]:
            for child in _children(parent, path):
                found.setdefault(child, f"{kind.__name__}.{method}")
    return found


def _children(parent: nn.Module, path: Path) -> list[nn.Module]:
    """The modules to which a path leads."""
    ends = [parent]
    for name in path:
        ends = [child for end in ends for key, child in end.named_children() if name in (key, "*")]
    return ends


def _reads(kind: type) -> Iterator[tuple[str, Path]]:
    """(method, path) for every `self.path.weight` that a method of this class, or of one it derives from, uses."""
    for base in kind.__mro__:
        if base is object or base.__module__.partition(".")[0] == "torch":
            continue
        for name, member in vars(base).items():
            function = _function(member)
            if function is None or _OTHER_PURPOSE.search(name) or not _mentions_weight(function.__code__):
                continue
            if (tree := _parsed(function)) is not None and tree.args.args:
                visitor = _Reads(tree.args.args[0].arg)
                visitor.visit(tree)
                yield from ((name, path) for path in visitor.found)


def _function(member: Any) -> Any:
    """The function behind a method or a property; None if it has no `self`."""
    member = getattr(member, "fget", None) or getattr(member, "func", member)
    return inspect.unwrap(member) if inspect.isfunction(member) and inspect.isfunction(inspect.unwrap(member)) else None


def _mentions_weight(code: CodeType) -> bool:
    """Whether an attribute `weight` occurs in the code: parsing takes longer than looking."""
    return "weight" in code.co_names or any(_mentions_weight(c) for c in code.co_consts if isinstance(c, CodeType))


def _parsed(function: Callable[..., Any]) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """The function's syntax tree; None without its source."""
    try:
        source = inspect.getsource(function)
        tree = ast.parse(f"if True:\n{source}" if source[0].isspace() else source)
    except (OSError, TypeError, SyntaxError):
        return None
    return next((node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)), None)


class _Reads(ast.NodeVisitor):
    """Collects the paths of modules whose weight is read, by way of local names, too."""

    def __init__(self, own: str) -> None:
        self.names: dict[str, Path] = {own: ()}
        self.found: set[Path] = set()

    def path(self, node: ast.AST) -> Path | None:
        """Where this expression leads, from `self` on; None if that is not known."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if not isinstance(node, ast.Attribute | ast.Subscript):
            return None
        start = self.path(node.value)
        if start is None:
            return None
        if isinstance(node, ast.Attribute):
            return (*start, node.attr)
        known = isinstance(node.slice, ast.Constant) and not str(node.slice.value).startswith("-")
        return (*start, str(node.slice.value) if known else "*")  # type: ignore[attr-defined]

    def name(self, target: ast.AST, path: Path | None) -> None:
        """Remembers what a local name stands for."""
        if isinstance(target, ast.Name):
            if path is None:
                self.names.pop(target.id, None)
            else:
                self.names[target.id] = path

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            self.name(target, self.path(node.value))

    def visit_For(self, node: ast.For) -> None:
        self._loop(node)
        self.generic_visit(node)

    def visit_ListComp(self, node: ast.ListComp) -> None:
        self._comprehension(node)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        self._comprehension(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in _HARMLESS and isinstance(node.value, ast.Attribute):
            self.generic_visit(node.value)
            return
        if node.attr == "weight" and isinstance(node.ctx, ast.Load) and (path := self.path(node.value)):
            self.found.add(path)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            return
        self.generic_visit(node)

    def _comprehension(self, node: ast.ListComp | ast.GeneratorExp) -> None:
        for loop in node.generators:
            self._loop(loop)
        self.generic_visit(node)

    def _loop(self, node: ast.For | ast.comprehension) -> None:
        over, target = node.iter, node.target
        if isinstance(over, ast.Call):
            if isinstance(over.func, ast.Name) and over.func.id in ("enumerate", "reversed"):
                over = over.args[0]
            elif isinstance(over.func, ast.Attribute) and over.func.attr in ("children", "items", "values"):
                over = over.func.value
            target = target.elts[-1] if isinstance(target, ast.Tuple) else target
        path = self.path(over)
        self.name(target, None if path is None else (*path, "*"))

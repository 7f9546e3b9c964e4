"""Which names of torch_npu a source file uses: attributes of torch.npu and torch_npu in its text, and how they are called."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOTS = ("torch.npu", "torch_npu", "torch.ops.npu")


@dataclass(frozen=True)
class Use:
    """One place. `positional` and `keywords` where it is called, `stored` where it is assigned to."""

    name: str
    where: str
    positional: int | None = None
    keywords: tuple[str, ...] = ()
    stored: bool = False


def uses(files: Iterable[Path]) -> list[Use]:
    """Every use in the files, in their order."""
    found: list[Use] = []
    for file in files:
        text = file.read_text(encoding="utf-8")
        if "npu" in text:
            reader = _Reader(file)
            reader.visit(ast.parse(text))
            found += reader.found
    return found


class _Reader(ast.NodeVisitor):
    """Follows `import ... as`, `from ... import`, `x = torch.npu`, getattr and hasattr with a literal name."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.found: list[Use] = []
        self.known = {"torch": "torch", "torch_npu": "torch_npu"}

    def name_of(self, node: ast.expr) -> str | None:
        """torch.npu.config of the expression, in full; None for another expression."""
        if isinstance(node, ast.Name):
            return self.known.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self.name_of(node.value)
            return f"{owner}.{node.attr}" if owner else None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            owner, attribute = self.name_of(node.args[0]), node.args[1]
            if owner and isinstance(attribute, ast.Constant):
                return f"{owner}.{attribute.value}"
        return None

    def add(self, name: str | None, node: ast.AST, **how: object) -> bool:
        if name is None or not any(name == root or name.startswith(f"{root}.") for root in ROOTS):
            return False
        self.found.append(Use(name, f"{self.file}:{node.lineno}", **how))  # type: ignore[attr-defined, arg-type]
        return True

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.add(alias.name, node)
            if alias.asname:
                self.known[alias.asname] = alias.name

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            name = f"{node.module}.{alias.name}"
            if self.add(name, node):
                self.known[alias.asname or alias.name] = name

    def visit_Assign(self, node: ast.Assign) -> None:
        name = self.name_of(node.value)
        target = node.targets[0]
        if isinstance(target, ast.Name) and name and name.startswith(ROOTS):
            self.known[target.id] = name
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = self.name_of(node.func)
        starred = any(isinstance(each, ast.Starred) for each in node.args) or any(
            not each.arg for each in node.keywords
        )
        keywords = tuple(each.arg for each in node.keywords if each.arg)
        if self.add(name, node, positional=None if starred else len(node.args), keywords=keywords):
            for child in (*node.args, *(each.value for each in node.keywords)):
                self.visit(child)
        elif not self.add(self.name_of(node), node):  # getattr and hasattr themselves
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """A program in a string, for a child process, is read as well; its lines are the string's."""
        if isinstance(node.value, str) and "torch_npu" in node.value and "\n" in node.value:
            try:
                self.visit(ast.parse(node.value))
            except SyntaxError:
                return  # a text that speaks of it

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if not self.add(self.name_of(node), node, stored=isinstance(node.ctx, ast.Store)):
            self.generic_visit(node)

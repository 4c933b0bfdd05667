"""The project's Python files as the checks see them: text, syntax tree, place in the tree."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

PACKAGE = "mdr_dist"
FOLDERS = (PACKAGE, "jobs", "tools", "tests")
EXCUSE = re.compile(r"#\s*budget:\s*\S")

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, order=True)
class Finding:
    """One thing to put right; as a string, `file:line: text`."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


@dataclass(frozen=True)
class Function:
    """A function and its dotted name inside the file. `bound` is 1 where the first parameter is `self` or `cls`."""

    node: FunctionNode
    name: str
    bound: int

    @property
    def public(self) -> bool:
        """No part of the name starts with `_`, `__init__` aside, and no function holds it."""
        return "<locals>" not in self.name and not any(
            part.startswith("_") and part != "__init__" for part in self.name.split(".")
        )

    @property
    def header(self) -> tuple[int, int]:
        """The first and last line of the signature."""
        return self.node.lineno, max(self.node.lineno, self.node.body[0].lineno - 1)


@dataclass(frozen=True)
class Source:
    """One file. `path` is relative to the root, with slashes; `module` is its dotted name."""

    path: str
    module: str
    text: str = field(repr=False)
    tree: ast.Module = field(repr=False)

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @property
    def is_package(self) -> bool:
        return self.path.endswith("/__init__.py")

    @property
    def folder(self) -> str:
        """The top folder: the package, jobs, tools or tests."""
        return self.path.split("/")[0]

    @property
    def stem(self) -> str:
        """The file's name without `.py`; for an `__init__.py` its folder's."""
        return self.module.split(".")[-1]

    @property
    def part(self) -> str:
        """What layers are made of: the folder or module below the package; empty outside it."""
        return [*self.module.split("."), "__init__"][1] if self.folder == PACKAGE else ""

    @cached_property
    def functions(self) -> list[Function]:
        """Every function, at any depth."""
        return list(_functions(self.tree, ""))

    def excused(self, first: int, last: int) -> bool:
        """Whether a line from `first` to `last` says `# budget: <reason>`."""
        return any(EXCUSE.search(line) for line in self.lines[first - 1 : last])

    def found(self, line: int, text: str) -> Finding:
        """A finding in this file."""
        return Finding(self.path, line, text)


def _functions(node: ast.AST, prefix: str) -> Iterator[Function]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FunctionNode):
            static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in child.decorator_list)
            yield Function(child, prefix + child.name, int(isinstance(node, ast.ClassDef) and not static))
            yield from _functions(child, f"{prefix}{child.name}.<locals>.")
        else:
            yield from _functions(child, f"{prefix}{child.name}." if isinstance(child, ast.ClassDef) else prefix)


def read_sources(root: Path) -> tuple[list[Source], list[Finding]]:
    """Every Python file of the folders that are checked, and a finding for each that does not parse."""
    sources: list[Source] = []
    broken: list[Finding] = []
    for path in sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py")):
        short = path.relative_to(root).as_posix()
        module = short.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        text = path.read_text(encoding="utf-8")
        try:
            sources.append(Source(short, module, text, ast.parse(text, short)))
        except SyntaxError as error:
            broken.append(Finding(short, error.lineno or 1, f"not Python: {error.msg}"))
    return sources, broken

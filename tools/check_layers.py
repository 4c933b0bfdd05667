#!/usr/bin/env python3
"""Holds the source to the project's shape: imports run downhill, files and functions stay small, words stay one.

Run `tools/check_layers.py [ROOT]`; it prints `file:line: what is wrong; what would be right` and exits with 1 if it
found anything, with 2 if ROOT is not the project. It reads source text only and needs nothing but the standard library.
The rules on imports and on the index of methods are here, the others in check_budgets.py.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from check_budgets import METHOD_PARTS, check_file, check_functions, check_words
from source_tree import PACKAGE, Finding, FunctionNode, Source, read_sources

# From the top down. A part imports its own layer and those below. `__init__` is the package's own.
LAYERS = (
    ("cli", "cli_submit", "cli_checkpoint", "compare", "watch", "__main__"),
    ("launch",),
    ("train",),
    ("eval", "checkpoint"),
    ("tables", "data"),
    ("catalog",),
    ("methods", "baselines"),
    ("nn",),
    (
        "stage",
        "rule",
        "batch",
        "schema",
        "config",
        "events",
        "new_folder",
        "storage",
        "object_store",
        "redact",
        "errors",
        "__init__",
    ),
)
LEVEL = {part: level for level, layer in enumerate(LAYERS) for part in layer}

# Parts that import these packages, the standard library and the project itself, nothing else.
ONLY = {"methods": {"torch", "pydantic"}, "baselines": {"torch", "pydantic"}, "nn": {"torch"}}

# Modules that one part alone imports; and a package below mdr_dist that may do so too, inside functions.
OWNED = {
    "torchrec.distributed": ("tables", ""),
    "fbgemm_gpu": ("tables", ""),
    "ray": ("launch", "data.prepare"),
}
OUTSIDE = {"tests", "tools", "jobs"}  # the package never imports these


@dataclass(frozen=True)
class Import:
    """One imported name, dotted in full; `eager` marks what runs when the module is imported."""

    name: str
    line: int
    eager: bool


def imports(source: Source) -> list[Import]:
    """Every import of a file, relative ones resolved."""
    found: list[Import] = []

    def visit(node: ast.AST, eager: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, eager) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _base(source, node)
            found.extend(Import(f"{base}.{alias.name}", node.lineno, eager) for alias in node.names)
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.iter_child_nodes(node):
            visit(child, eager and not for_types and not isinstance(child, FunctionNode))

    visit(source.tree, eager=True)
    return found


def _base(source: Source, node: ast.ImportFrom) -> str:
    """The module that a `from … import` names."""
    if not node.level:
        return node.module or ""
    above = source.module.split(".")
    above = above[: len(above) - node.level + source.is_package]
    return ".".join([*above, node.module] if node.module else above)


def check_imports(source: Source) -> Iterator[Finding]:
    """Downhill, nothing from outside, owned modules by their owners, lean parts lean."""
    if source.folder != PACKAGE:
        return
    if source.part not in LEVEL:
        yield source.found(1, f"{source.part!r} is in no layer; add it to LAYERS in tools/check_layers.py")
        return
    for use in imports(source):
        yield from _check_direction(source, use)
        yield from _check_owned(source, use)


def _check_direction(source: Source, use: Import) -> Iterator[Finding]:
    top, _, rest = use.name.partition(".")
    allowed = ONLY.get(source.part)
    if top == PACKAGE:
        target = rest.split(".")[0]
        if LEVEL.get(target, len(LAYERS)) < LEVEL[source.part]:
            below = ", ".join(part for layer in LAYERS[LEVEL[source.part] :] for part in layer if part != "__init__")
            yield source.found(use.line, f"{source.part} imports {target}, which lies above it; it may use {below}")
    elif top in OUTSIDE:
        yield source.found(use.line, f"the package imports {top!r}; what both need belongs into the package")
    elif allowed and top not in allowed | sys.stdlib_module_names:
        text = f"{source.part} imports {top}; it may use {', '.join(sorted(allowed))} and the standard library"
        yield source.found(use.line, text)


def _check_owned(source: Source, use: Import) -> Iterator[Finding]:
    for owned, (owner, lazy) in OWNED.items():
        reaches = f"{use.name}.".startswith(f"{owned}.") or owned.startswith(f"{use.name}.")
        if not reaches or source.part == owner:
            continue
        if not f"{source.module}.".startswith(f"{PACKAGE}.{lazy}."):
            yield source.found(
                use.line, f"{use.name} reaches {owned}, which only {owner}/ imports; go through {owner}/"
            )
        elif use.eager:
            yield source.found(
                use.line, f"{use.name} is imported with the module; import it in the function that uses it"
            )


def check_cycles(sources: list[Source]) -> Iterator[Finding]:
    """No modules of the package import each other in a circle while they are being imported."""
    modules = {source.module: source for source in sources if source.folder == PACKAGE}
    edges: dict[str, dict[str, int]] = {}
    for name, source in modules.items():
        eager = ((use.name, use.line) for use in imports(source) if use.eager)
        targets = {(used if used in modules else used.rpartition(".")[0]): line for used, line in eager}
        edges[name] = {target: line for target, line in targets.items() if target in modules}
    done: set[str] = set()
    for start in sorted(edges):
        for circle in _circles(start, edges, (), done):
            text = f"import cycle {' → '.join(circle)}; import inside a function, or move what both need below both"
            yield modules[circle[-2]].found(edges[circle[-2]][circle[-1]], text)


def _circles(
    name: str, edges: Mapping[str, Mapping[str, int]], path: tuple[str, ...], done: set[str]
) -> Iterator[tuple[str, ...]]:
    if name in path:
        yield (*path[path.index(name) :], name)
    elif name not in done:
        for target in sorted(edges[name]):
            yield from _circles(target, edges, (*path, name), done)
        done.add(name)


def check_indexes(root: Path, sources: list[Source]) -> Iterator[Finding]:
    """Every method in an index exists and names its paper; in `methods` it names equations too, and has a job."""
    by_module = {source.module: source for source in sources}
    for index in sources:
        if index.part not in METHOD_PARTS or not index.is_package:
            continue
        for name, target, line in _entries(index):
            module, _, class_name = target.partition(":")
            there = by_module.get(module)
            if there is None or class_name not in {n.name for n in there.tree.body if isinstance(n, ast.ClassDef)}:
                yield index.found(line, f"method {name!r} is at {target!r}, where no class is")
                continue
            yield from _check_docstring(there)
            if index.part == "methods" and (root / "jobs").is_dir() and not [*root.glob(f"jobs/*/{name}.yaml")]:
                yield index.found(line, f"method {name!r} has no job; write jobs/<dataset>/{name}.yaml")


def _check_docstring(source: Source) -> Iterator[Finding]:
    docstring = ast.get_docstring(source.tree) or ""
    if not re.search(r"\b(19|20)\d\d\b|\barXiv\b", docstring):
        yield source.found(1, "its docstring names no paper: no year and no arXiv number; name the paper")
    if source.part == "methods" and not re.search(r"\b[Ee]q(uation)?s?\b", docstring):
        yield source.found(1, "its docstring names no equation; say which are where (Eq. 3, Equations 3 to 5)")


def _entries(source: Source) -> Iterator[tuple[str, str, int]]:
    """(name, "module:Class", line) of every such pair in a dict of the file."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Dict):
            continue
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(value, ast.Constant) and ":" in str(value.value):
                yield str(key.value), str(value.value), key.lineno


def check(root: Path) -> list[Finding]:
    """Every finding in the project at `root`, by file and line."""
    sources, findings = read_sources(root)
    for source in sources:
        for rule in (check_file, check_functions, check_imports, check_words):
            findings += rule(source)
    findings += check_cycles(sources)
    findings += check_indexes(root, sources)
    return sorted(set(findings))


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    if not (root / PACKAGE).is_dir():
        print(f"check_layers: {root} has no folder {PACKAGE}; name the project's root", file=sys.stderr)
        return 2
    findings = check(root)
    print(*findings, sep="\n", end="\n" if findings else "")
    print(f"check_layers: {len(findings)} to put right" if findings else "check_layers: nothing to put right")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

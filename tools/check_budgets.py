"""Sizes, signatures and words. `check_layers.py` runs these checks.

A comment `# budget: <reason>` excuses: in a function's header that function, on its line a name, on a file's first
line the file's length.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from source_tree import PACKAGE, Finding, Function, Source

FUNCTION_LINES, FILE_LINES, METHOD_FILE_LINES, POSITIONAL, NESTING = 40, 300, 200, 5, 3
METHOD_PARTS = {"methods", "baselines"}

# Words with another name here, in the package's public names; split at "_" and at capitals.
WORDS = {
    "scenario": "domain",
    "scenarios": "domains",
    "algorithm": "method",
    "experiment": "run",
    "phase": "stage",
    "iters": "steps",
    "iteration": "step",
    "iterations": "steps",
    "emb": "rows or table",
    "pred": "score",
    "preds": "scores",
}
MUTABLE = {"list", "dict", "set", "bytearray", "defaultdict", "OrderedDict", "Counter", "deque"}

Block = ast.If | ast.For | ast.AsyncFor | ast.While | ast.With | ast.AsyncWith | ast.Try | ast.TryStar | ast.Match


def check_file(source: Source) -> Iterator[Finding]:
    """A file's name, and its length: all lines count."""
    if source.stem in ("util", "utils"):
        yield source.found(1, f"named {source.stem}; name it after what it holds")
    limit = METHOD_FILE_LINES if source.part in METHOD_PARTS else FILE_LINES
    if len(source.lines) > limit and not source.excused(1, 1):
        yield source.found(1, f"{len(source.lines)} lines; at most {limit}: split it by what each half knows")


def check_functions(source: Source) -> Iterator[Finding]:
    """Every function's length and, outside tests, its nesting and signature.

    A test's parameters are fixtures, and an oracle may well be five plain loops.
    """
    tests = source.folder == "tests"
    if not tests:
        yield from _nesting(source, source.tree.body, "the module", depth=0)
    for function in source.functions:
        if source.excused(*function.header):
            continue
        if (lines := _length(function)) > FUNCTION_LINES:
            text = f"{function.name} has {lines} lines; at most {FUNCTION_LINES}: split it"
            yield source.found(function.node.lineno, text)
        if not tests:
            yield from _nesting(source, function.node.body, function.name, depth=0)
            yield from _signature(source, function)


def _length(function: Function) -> int:
    """Lines from the first statement after the docstring to the last, blank lines and comments included."""
    body = function.node.body
    if ast.get_docstring(function.node, clean=False) is not None:
        body = body[1:]
    return (body[-1].end_lineno or body[-1].lineno) - body[0].lineno + 1 if body else 0


def _nesting(source: Source, body: list[ast.stmt], name: str, *, depth: int) -> Iterator[Finding]:
    """if, for, while, with, try and match count; `elif` counts with its `if`; an inner function starts anew."""
    for statement in body:
        if not isinstance(statement, Block):
            continue
        if depth == NESTING:
            text = f"{name} nests {NESTING + 1} levels deep; at most {NESTING}: return early or split it"
            yield source.found(statement.lineno, text)
            continue
        for inner, deeper in _bodies(statement):
            yield from _nesting(source, inner, name, depth=depth + deeper)


def _bodies(block: Block) -> Iterator[tuple[list[ast.stmt], int]]:
    """(statements, levels they lie below the block)"""
    holders = [block, *getattr(block, "handlers", []), *getattr(block, "cases", [])]
    yield from ((holder.body, 1) for holder in holders if hasattr(holder, "body"))
    yield getattr(block, "finalbody", []), 1
    rest: list[ast.stmt] = getattr(block, "orelse", [])
    is_elif = isinstance(block, ast.If) and len(rest) == 1 and isinstance(rest[0], ast.If)
    yield rest, 0 if is_elif else 1


def _signature(source: Source, function: Function) -> Iterator[Finding]:
    """Four rules, `self` and `cls` never counting.

    No function takes more than five parameters by position. A public one with more than three parameters takes at most
    two by position, the others by keyword. None takes `**kwargs`. None has a mutable default.
    """
    arguments, line = function.node.args, function.node.lineno
    positional = len(arguments.posonlyargs) + len(arguments.args) - function.bound
    if positional > POSITIONAL:
        text = f"{function.name} takes {positional} parameters by position; at most {POSITIONAL}: put `*` earlier"
        yield source.found(line, text)
    elif function.public and positional > 2 and positional + len(arguments.kwonlyargs) > 3:
        text = f"{function.name} takes {positional} of its parameters by position; put `*` after the second"
        yield source.found(line, text)
    if arguments.kwarg:
        text = f"{function.name} takes **{arguments.kwarg.arg}; name its parameters, or take a mapping"
        yield source.found(line, text)
    for default in [*arguments.defaults, *arguments.kw_defaults]:
        if default is not None and _mutable(default):
            text = f"{function.name} has a mutable default; use None, a tuple or a frozen object"
            yield source.found(default.lineno, text)


def _mutable(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in MUTABLE
    return isinstance(node, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp)


def check_words(source: Source) -> Iterator[Finding]:
    """One word for one thing in what the package shows: modules, classes, functions, parameters, fields, constants."""
    if source.folder != PACKAGE:
        return
    for name, first, last in _names(source):
        words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]
        wrong = next((word for word in words if word in WORDS), "")
        if wrong and not name.startswith("_") and not source.excused(first, last):
            yield source.found(first, f"{name}: what it calls {wrong!r} is called {WORDS[wrong]!r} here")


def _names(source: Source) -> Iterator[tuple[str, int, int]]:
    """(name, its line, the last line where its excuse may stand)"""
    yield source.stem, 1, 1
    for function in source.functions:
        if not function.public:
            continue
        arguments, end = function.node.args, function.header[1]
        yield function.node.name, function.node.lineno, end
        for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
            yield argument.arg, argument.lineno, end
    classes = [n for n in ast.walk(source.tree) if isinstance(n, ast.ClassDef) and not n.name.startswith("_")]
    yield from ((node.name, node.lineno, node.lineno) for node in classes)
    for statement in (statement for body in [source.tree, *classes] for statement in body.body):
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        yield from ((t.id, t.lineno, t.lineno) for t in targets if isinstance(t, ast.Name))

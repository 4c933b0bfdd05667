"""Each rule on sizes, signatures and words, on a file that breaks it and on one that keeps it."""

from collections.abc import Callable

import pytest

Findings = Callable[[dict[str, str]], list[str]]


def body(lines: int) -> str:
    return "    x = 1\n" * lines


LONG = "def f():\n" + body(41)
DEEP = "def f():\n    for a in b:\n        if a:\n            with a:\n                try:\n                    a()\n"
DEEP += "                finally:\n                    pass\n"

BUDGETS = {
    "long function": ("mdr_dist/train/a.py", LONG, "1: f has 41 lines; at most 40"),
    "long test": ("tests/train/test_a.py", LONG, "1: f has 41 lines; at most 40"),
    "long method": (
        "tools/a.py",
        "class A:\n    async def f(self):\n" + "        x = 1\n" * 41,
        "2: A.f has 41 lines; at most 40",
    ),
    "long file": ("mdr_dist/train/a.py", "x = 1\n" * 301, "1: 301 lines; at most 300"),
    "long test file": ("tests/test_a.py", "x = 1\n" * 301, "1: 301 lines; at most 300"),
    "long method file": ("mdr_dist/methods/adc.py", "x = 1\n" * 201, "1: 201 lines; at most 200"),
    "long baseline file": ("mdr_dist/baselines/rank/a.py", "x = 1\n" * 201, "1: 201 lines; at most 200"),
    "utils": ("mdr_dist/train/utils.py", "", "1: named utils; name it after what it holds"),
    "utils folder": ("tests/utils/__init__.py", "", "1: named utils; name it after what it holds"),
    "deep": ("mdr_dist/train/a.py", DEEP, "5: f nests 4 levels deep; at most 3"),
    "deep in else": (
        "mdr_dist/train/a.py",
        "def f():\n    if a:\n        pass\n    else:\n        for a in b:\n            pass\n        else:\n"
        "            match a:\n                case 1:\n                    while a:\n                        pass\n",
        "10: f nests 4 levels deep; at most 3",
    ),
    "deep in except": (
        "mdr_dist/train/a.py",
        "def f():\n    try:\n        a()\n    except A:\n        if a:\n            if b:\n                if c:\n"
        "                    pass\n",
        "7: f nests 4 levels deep; at most 3",
    ),
    "deep in finally": (
        "mdr_dist/train/a.py",
        "def f():\n    try:\n        a()\n    finally:\n        if a:\n            if b:\n                with c:\n"
        "                    pass\n",
        "7: f nests 4 levels deep; at most 3",
    ),
    "an if alone in the else of a loop": (
        "mdr_dist/train/a.py",
        "def f():\n    if a:\n        if b:\n            for c in d:\n                pass\n            else:\n"
        "                if e:\n                    pass\n",
        "7: f nests 4 levels deep; at most 3",
    ),
    "deep module": (
        "tools/a.py",
        "if a:\n    if b:\n        if c:\n            if d:\n                x = 1\n",
        "4: the module nests 4 levels deep; at most 3",
    ),
    "positional": ("mdr_dist/train/a.py", "def _f(a, b, c, d, e, f): ...\n", "1: _f takes 6 parameters by position"),
    "positional, self aside": (
        "mdr_dist/train/a.py",
        "class A:\n    def _f(self, a, b, /, c, d, e, f): ...\n",
        "2: A._f takes 6 parameters by position; at most 5",
    ),
    "positional, static": (
        "mdr_dist/train/a.py",
        "class _A:\n    @staticmethod\n    def f(a, b, c, d, e, f): ...\n",
        "3: _A.f takes 6 parameters by position; at most 5",
    ),
    "keyword-only": (
        "mdr_dist/train/a.py",
        "def f(a, b, c, *, d): ...\n",
        "1: f takes 3 of its parameters by position; put `*` after the second",
    ),
    "keyword-only, init": (
        "mdr_dist/train/a.py",
        "class A:\n    def __init__(self, a, b, c, d=1): ...\n",
        "2: A.__init__ takes 4 of its parameters by position; put `*` after the second",
    ),
    "kwargs": ("mdr_dist/train/a.py", "def _f(**kwargs): ...\n", "1: _f takes **kwargs; name its parameters"),
    "kwargs inside a function": (
        "mdr_dist/train/a.py",
        "def f():\n    def g(**kwargs): ...\n",
        "2: f.<locals>.g takes **kwargs",
    ),
    "mutable": ("mdr_dist/train/a.py", "def _f(a=[]): ...\n", "1: _f has a mutable default; use None"),
    "mutable keyword": ("mdr_dist/train/a.py", "def _f(*, a=1, b={}): ...\n", "1: _f has a mutable default"),
    "mutable call": ("mdr_dist/train/a.py", "def _f(a=set()): ...\n", "1: _f has a mutable default"),
    "word in a module": ("mdr_dist/eval/scenario.py", "", "1: scenario: what it calls 'scenario' is called 'domain'"),
    "word in a function": (
        "mdr_dist/eval/a.py",
        "def pred_domain(): ...\n",
        "1: pred_domain: what it calls 'pred' is called 'score' here",
    ),
    "word in a class": ("mdr_dist/eval/a.py", "class ScenarioGate: ...\n", "1: ScenarioGate: what it calls 'scenario'"),
    "word in a parameter": (
        "mdr_dist/eval/a.py",
        "def f(\n    a,\n    *,\n    num_iters=1,\n): ...\n",
        "4: num_iters: what it calls 'iters' is called 'steps' here",
    ),
    "word in a field": (
        "mdr_dist/eval/a.py",
        "class A:\n    b: int\n    emb_dim: int = 1\n",
        "3: emb_dim: what it calls 'emb' is called 'rows or table' here",
    ),
    "word in a constant": ("mdr_dist/eval/a.py", "ITERATIONS = 1\n", "1: ITERATIONS: what it calls 'iterations'"),
    "not Python": ("mdr_dist/eval/a.py", "x = 1\ndef f(:\n", "2: not Python: "),
}


@pytest.mark.parametrize("path, text, expected", BUDGETS.values(), ids=BUDGETS.keys())
def test_broken_budgets_are_found(findings: Findings, path: str, text: str, expected: str) -> None:
    found = findings({path: text})
    assert len(found) == 1
    assert found[0].startswith(f"{path}:{expected}")


KEPT = {
    "40 lines below a docstring": ("mdr_dist/train/a.py", 'def f():\n    """A\n\n    b\n    """\n' + body(40)),
    "docstring only": ("mdr_dist/train/a.py", 'def f():\n    """A."""\n'),
    "300 lines": ("mdr_dist/train/a.py", "x = 1\n" * 300),
    "200 lines": ("mdr_dist/methods/adc.py", "x = 1\n" * 200),
    "a long test of a method": ("tests/methods/test_adc.py", "x = 1\n" * 201),
    "three levels": (
        "mdr_dist/train/a.py",
        "def f():\n    for a in b:\n        with a:\n            if a:\n                x = [b for c in d for b in c]\n"
        "            elif b:\n                pass\n            elif c:\n                pass\n            else:\n"
        "                def g():\n                    if a:\n                        pass\n",
    ),
    "three levels in finally": (
        "mdr_dist/train/a.py",
        "def f():\n    try:\n        a()\n    finally:\n        if a:\n            if b:\n                pass\n",
    ),
    "five positional": ("mdr_dist/train/a.py", "class A:\n    def _f(self, a, b, c, d, e, *more, g, h): ...\n"),
    "three positional": ("mdr_dist/train/a.py", "def f(a, b, c): ...\ndef g(a, b, *, c, d): ...\n"),
    "cls does not count": ("mdr_dist/train/a.py", "class A:\n    @classmethod\n    def f(cls, a, b, *, c, d): ...\n"),
    "inner functions are not public": ("mdr_dist/train/a.py", "def f():\n    def g(a, b, c, d): ...\n"),
    "an oracle's loops": (
        "tests/test_a.py",
        DEEP + "if a:\n    if b:\n        if c:\n            if d:\n                e()\n",
    ),
    "fixtures are positional": ("tests/test_a.py", "def test_f(a, b, c, d, e, f): ...\n"),
    "frozen defaults": ("mdr_dist/train/a.py", "@a.b\ndef f(a=(), *, b=None, c=frozenset(), d=e.set(), g): ...\n"),
    "other words": ("mdr_dist/eval/a.py", "def predict(items, domain_embedding):\n    pred = emb = 1\n"),
    "private words": ("mdr_dist/eval/a.py", "_PRED = 1\ndef _f(pred): ...\nclass _A:\n    emb: int\n"),
    "words elsewhere": ("tools/a.py", "def scenario(pred): ...\n"),
}


@pytest.mark.parametrize("path, text", KEPT.values(), ids=KEPT.keys())
def test_kept_budgets_are_not(findings: Findings, path: str, text: str) -> None:
    assert findings({path: text}) == []


EXCUSED = {
    "function": ("def f():  # budget: one table of cases\n" + body(41), "# budget:"),
    "header of several lines": (
        "def f(\n    a,\n    b,\n    c,\n    d,  # budget: torch calls it so\n): ...\n",
        "# budget:",
    ),
    "file": ("# budget: one list\n" + "x = 1\n" * 300, "# budget:"),
    "word": ("class A:\n    phase: int  # budget: the paper's word, in its equation\n", "# budget:"),
    "word in a header": ("def f(phase):  # budget: the angle of a wave\n    ...\n", "# budget:"),
}


@pytest.mark.parametrize("text, excuse", EXCUSED.values(), ids=EXCUSED.keys())
def test_an_excuse_needs_a_reason(findings: Findings, text: str, excuse: str) -> None:
    assert findings({"mdr_dist/train/a.py": text}) == []
    reason = text[text.index(excuse) + len(excuse) :].split("\n")[0]
    assert len(findings({"mdr_dist/train/a.py": text.replace(reason, "")})) == 1


@pytest.mark.parametrize("text", ["def _f(**a):\n    b()  # budget: late\n", "\n# budget: late\n" + "x = 1\n" * 300])
def test_an_excuse_stands_where_it_belongs(findings: Findings, text: str) -> None:
    assert len(findings({"mdr_dist/train/a.py": text})) == 1

"""Each rule on imports and on the index of methods, on a small tree that breaks it and on one that keeps it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import check_layers
import pytest

Findings = Callable[[dict[str, str]], list[str]]


IMPORTS = {
    "uphill": (
        {"mdr_dist/stage.py": "import os\nfrom mdr_dist.tables import spec\n"},
        "mdr_dist/stage.py:2: stage imports tables, which lies above it; "
        "it may use stage, rule, batch, schema, config, events, new_folder, storage, object_store, redact, errors",
    ),
    "uphill, whole": (
        {"mdr_dist/eval/metrics.py": "import mdr_dist.train.trainer\n"},
        "mdr_dist/eval/metrics.py:1: eval imports train, which lies above it",
    ),
    "uphill, from the package": (
        {"mdr_dist/tables/spec.py": "from mdr_dist import checkpoint\n"},
        "mdr_dist/tables/spec.py:1: tables imports checkpoint, which lies above it",
    ),
    "uphill, relative": (
        {"mdr_dist/data/source.py": "from ..train import step\n"},
        "mdr_dist/data/source.py:1: data imports train, which lies above it",
    ),
    "uphill, relative in a package": (
        {"mdr_dist/data/__init__.py": "from ..train import step\n"},
        "mdr_dist/data/__init__.py:1: data imports train, which lies above it",
    ),
    "uphill, lazily": (
        {"mdr_dist/nn/mlp.py": "def f():\n    from mdr_dist.methods.base import Method\n"},
        "mdr_dist/nn/mlp.py:2: nn imports methods, which lies above it",
    ),
    "uphill, for types": (
        {"mdr_dist/train/step.py": "if TYPE_CHECKING:\n    from mdr_dist.launch import ray\n"},
        "mdr_dist/train/step.py:2: train imports launch, which lies above it",
    ),
    "from the init": (
        {"mdr_dist/__init__.py": "from mdr_dist.cli import main\n"},
        "mdr_dist/__init__.py:1: __init__ imports cli, which lies above it",
    ),
    "no layer": (
        {"mdr_dist/extra.py": ""},
        "mdr_dist/extra.py:1: 'extra' is in no layer; add it to LAYERS in tools/check_layers.py",
    ),
    "outside": (
        {"mdr_dist/train/step.py": "from tests.fixtures import tree\n"},
        "mdr_dist/train/step.py:1: the package imports 'tests'",
    ),
    "numpy in methods": (
        {"mdr_dist/methods/adc.py": "import numpy as np\n"},
        "mdr_dist/methods/adc.py:1: methods imports numpy; it may use pydantic, torch and the standard library",
    ),
    "numpy in baselines": (
        {"mdr_dist/baselines/rank/mmoe.py": "from numpy import linalg\n"},
        "mdr_dist/baselines/rank/mmoe.py:1: baselines imports numpy; it may use pydantic, torch",
    ),
    "pydantic in nn": (
        {"mdr_dist/nn/mlp.py": "from pydantic import BaseModel\n"},
        "mdr_dist/nn/mlp.py:1: nn imports pydantic; it may use torch and the standard library",
    ),
    "torchrec.distributed": (
        {"mdr_dist/train/step.py": "from torchrec.distributed.types import ShardingPlan\n"},
        "mdr_dist/train/step.py:1: torchrec.distributed.types.ShardingPlan reaches torchrec.distributed, "
        "which only tables/ imports; go through tables/",
    ),
    "torchrec.distributed as a name": (
        {"mdr_dist/train/step.py": "from torchrec import distributed\n"},
        "mdr_dist/train/step.py:1: torchrec.distributed reaches torchrec.distributed, which only tables/",
    ),
    "all of torchrec": (
        {"mdr_dist/data/collate.py": "import torchrec\n"},
        "mdr_dist/data/collate.py:1: torchrec reaches torchrec.distributed, which only tables/",
    ),
    "fbgemm": (
        {"mdr_dist/train/step.py": "def f():\n    import fbgemm_gpu\n"},
        "mdr_dist/train/step.py:2: fbgemm_gpu reaches fbgemm_gpu, which only tables/",
    ),
    "ray": (
        {"mdr_dist/cli.py": "def f():\n    import ray.train\n"},
        "mdr_dist/cli.py:2: ray.train reaches ray, which only launch/ imports; go through launch/",
    ),
    "ray at once in prepare": (
        {"mdr_dist/data/prepare/spread.py": "import ray\n"},
        "mdr_dist/data/prepare/spread.py:1: ray is imported with the module; import it in the function that uses it",
    ),
    "ray on a condition in prepare": (
        {"mdr_dist/data/prepare/spread.py": "if a:\n    try:\n        import ray\n    finally:\n        b()\n"},
        "mdr_dist/data/prepare/spread.py:3: ray is imported with the module",
    ),
    "circle": (
        {
            "mdr_dist/train/a.py": "from mdr_dist.train.b import f\n",
            "mdr_dist/train/b.py": "from mdr_dist.train import c\n",
            "mdr_dist/train/c.py": "import os\nimport mdr_dist.train.a\n",
        },
        "mdr_dist/train/c.py:2: import cycle mdr_dist.train.a → mdr_dist.train.b → mdr_dist.train.c → mdr_dist.train.a",
    ),
}


@pytest.mark.parametrize("files, expected", IMPORTS.values(), ids=IMPORTS.keys())
def test_wrong_imports_are_found(findings: Findings, files: dict[str, str], expected: str) -> None:
    found = findings(files)
    assert len(found) == 1
    assert found[0].startswith(expected)


def test_right_imports_are_not(findings: Findings) -> None:
    files = {
        "mdr_dist/cli.py": "from mdr_dist.launch import process\n",
        "mdr_dist/launch/process.py": "import ray.train\nfrom mdr_dist import errors\nfrom mdr_dist.train import a\n",
        "mdr_dist/train/step.py": "import numpy\nfrom mdr_dist.tables import spec\nfrom mdr_dist import __version__\n",
        "mdr_dist/tables/spec.py": "import fbgemm_gpu\nimport torchrec\nfrom torchrec.distributed import types\n",
        "mdr_dist/data/collate.py": "from torchrec.sparse.jagged_tensor import KeyedJaggedTensor\n",
        "mdr_dist/data/prepare/spread.py": "def f():\n    import ray\n",
        "mdr_dist/data/prepare/types.py": "if TYPE_CHECKING:\n    import ray\n",
        "mdr_dist/baselines/rank/mmoe.py": "from __future__ import annotations\nimport math\nfrom ...nn import mlp\n"
        "from mdr_dist.methods.base import Method\nfrom pydantic import Field\n",
        "mdr_dist/nn/mlp.py": "import torch.nn.functional as F\nfrom mdr_dist.batch import Batch\nfrom . import loss\n",
        "mdr_dist/nn/loss.py": "import numbers\n",
        "mdr_dist/storage.py": "import raygun, fsspec\n",
        "tools/bench.py": "import ray, fbgemm_gpu, numpy\nfrom mdr_dist import cli\n",
        "tests/train/test_step.py": "import ray\nimport torchrec.distributed\n",
        "jobs/run.py": "from mdr_dist import cli\n",
    }
    assert findings(files) == []


def test_only_circles_at_import_time_count(findings: Findings) -> None:
    files = {
        "mdr_dist/train/a.py": "from mdr_dist.train import b\n",
        "mdr_dist/train/b.py": "from mdr_dist.train import c\ndef f():\n    from mdr_dist.train import a\n",
        "mdr_dist/train/c.py": "if TYPE_CHECKING:\n    from mdr_dist.train.a import A\n",
        "mdr_dist/train/d.py": "from mdr_dist.train import a, b, c\n",
    }
    assert findings(files) == []


def test_imports_have_no_excuse(findings: Findings) -> None:
    text = "# budget: all\nimport numpy  # budget: needed\n"
    assert len(findings({"mdr_dist/nn/a.py": text})) == 1


def indexed(docstring: str = "A paper (2024), Eq. 1.", class_name: str = "Adc") -> dict[str, str]:
    return {
        "mdr_dist/methods/__init__.py": 'METHODS = {\n    "adc": "mdr_dist.methods.adc:Adc",\n}\n',
        "mdr_dist/methods/adc.py": f'"""{docstring}"""\n\nclass {class_name}: ...\n',
        "jobs/ciao/adc.yaml": "",
    }


def test_a_whole_method_is_right(findings: Findings) -> None:
    assert findings(indexed()) == []
    assert findings(indexed("A paper (1999), Equations 3 to 5 and 7.")) == []
    assert findings(indexed("A paper, arXiv 2405.12706, equation 3.")) == []


def test_an_index_names_what_is_there(tmp_path: Path, findings: Findings) -> None:
    expected = "mdr_dist/methods/__init__.py:2: method 'adc' is at 'mdr_dist.methods.adc:Adc', where no class is"
    assert findings(indexed(class_name="Other")) == [expected]
    (tmp_path / "mdr_dist/methods/adc.py").unlink()
    assert [str(finding) for finding in check_layers.check(tmp_path)] == [expected]


@pytest.mark.parametrize(
    "docstring, expected",
    [
        ("A paper, 2405.12706, Eq. 1.", "its docstring names no paper"),
        ("A paper (2024).", "its docstring names no equation"),
        ("A paper (2024), required sequences.", "its docstring names no equation"),
    ],
)
def test_a_method_names_paper_and_equations(findings: Findings, docstring: str, expected: str) -> None:
    found = findings(indexed(docstring))
    assert len(found) == 1
    assert found[0].startswith(f"mdr_dist/methods/adc.py:1: {expected}")


def test_a_method_has_a_job_once_there_are_jobs(tmp_path: Path, findings: Findings) -> None:
    files = indexed()
    files["jobs/ciao/sml.yaml"] = files.pop("jobs/ciao/adc.yaml")
    expected = "mdr_dist/methods/__init__.py:2: method 'adc' has no job; write jobs/<dataset>/adc.yaml"
    assert findings(files) == [expected]
    shutil.rmtree(tmp_path / "jobs")
    del files["jobs/ciao/sml.yaml"]
    assert findings(files) == []


def test_baselines_are_indexed_too(findings: Findings) -> None:
    files = {"mdr_dist/baselines/rank/__init__.py": 'X = {"mmoe": "mdr_dist.baselines.rank.mmoe:Mmoe"}\n'}
    assert [finding.split(": ", 1)[1] for finding in findings(files)] == [
        "method 'mmoe' is at 'mdr_dist.baselines.rank.mmoe:Mmoe', where no class is"
    ]


def test_baselines_need_a_paper_but_no_equation_and_no_job(findings: Findings) -> None:
    files = {
        "mdr_dist/baselines/rank/__init__.py": 'X = {"mmoe": "mdr_dist.baselines.rank.mmoe:Mmoe"}\n',
        "mdr_dist/baselines/rank/mmoe.py": '"""A paper (2018)."""\nclass Mmoe: ...\n',
        "jobs/ciao/adc.yaml": "",
    }
    assert findings(files) == []
    files["mdr_dist/baselines/rank/mmoe.py"] = "class Mmoe: ...\n"
    assert len(findings(files)) == 1


def test_a_method_without_a_docstring_is_found(findings: Findings) -> None:
    assert len(findings(indexed() | {"mdr_dist/methods/adc.py": "class Adc: ...\n"})) == 2


def test_other_dicts_are_no_index(findings: Findings) -> None:
    files = {
        "mdr_dist/data/__init__.py": 'READERS = {"csv": "mdr_dist.data.csv:Reader"}\n',
        "mdr_dist/methods/base.py": 'EXAMPLE = {"a": "b:c"}\n',
        "mdr_dist/methods/__init__.py": 'A = {"a": "no colon", "b": 1, "c": f"{x}:y", d: "e:f", **g}\n',
    }
    assert findings(files) == []


def test_findings_come_by_file_and_line(findings: Findings) -> None:
    files = {"mdr_dist/b.py": "", "mdr_dist/nn/a.py": "import b\n" * 10, "mdr_dist/a.py": ""}
    places = [tuple(finding.split(":")[:2]) for finding in findings(files)]
    assert places == [
        ("mdr_dist/a.py", "1"),
        ("mdr_dist/b.py", "1"),
        *(("mdr_dist/nn/a.py", str(line)) for line in range(1, 11)),
    ]


def test_exit_codes(tmp_path: Path, findings: Findings, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_layers.main([str(tmp_path)]) == 2
    assert findings({}) == []
    capsys.readouterr()
    assert check_layers.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == "check_layers: nothing to put right\n"
    findings({"mdr_dist/a.py": ""})
    assert check_layers.main([str(tmp_path)]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("mdr_dist/a.py:1: ")
    assert last == "check_layers: 1 to put right"


def test_the_command_checks_its_own_project_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(check_layers, "check", lambda root: asked.append(root) or [])
    assert check_layers.main([]) == 0
    assert (asked[0] / "pyproject.toml").is_file()

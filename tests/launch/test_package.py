"""What is sent to a cluster: the source, the job as it will run there, and nothing else."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import pytest
import yaml

import mdr_dist
from mdr_dist.config import Job, load_job
from mdr_dist.errors import UserError
from mdr_dist.launch import package
from mdr_dist.launch.package import packaged, prepared
from mdr_dist.launch.versions import versions
from support.jobs import small_job

ROOT = Path(__file__).parents[2]
JOBS = sorted(path for path in ROOT.glob("jobs/**/*.yaml") if not path.name.startswith(("prepare", "study")))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A package with a part, and with all that may lie around in a checkout."""
    files = {
        "mdr_dist/__init__.py": "",
        "mdr_dist/cli.py": "print()",
        "mdr_dist/data/__init__.py": "",
        "mdr_dist/data/page.html": "<p>",
        "mdr_dist/data/__pycache__/cli.cpython-311.pyc": "x",
        "mdr_dist/data/.hidden": "x",
        "mdr_dist/old.pyc": "x",
        "mdr_dist/runs/a/job.yaml": "x",
        "mdr_dist/runs/a/more.py": "x",
        "data/ciao/schema.json": "x",
        ".git/config": "x",
        ".venv/lib/module.py": "x",
        "tests/test.py": "x",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path / "mdr_dist"


def opened(data: bytes) -> dict[str, str]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def test_what_is_in_it(source: Path) -> None:
    job = small_job("smf", "s3://bucket/data")
    found = opened(packaged(job, source=str(source)))
    assert {name: found.pop(name) for name in list(found) if name.startswith("mdr_dist/")} == {
        "mdr_dist/__init__.py": "",
        "mdr_dist/cli.py": "print()",
        "mdr_dist/data/__init__.py": "",
        "mdr_dist/data/page.html": "<p>",
    }
    assert Job.model_validate(yaml.safe_load(found.pop("job.yaml"))) == job
    assert json.loads(found.pop("versions.json")) == versions()
    assert found == {}


def test_the_same_content_gives_the_same_bytes(source: Path) -> None:
    """So that Ray, which names packages by their content, sends one but once."""
    job = small_job("smf", "s3://bucket/data")
    once = packaged(job, source=str(source))
    os.utime(source / "cli.py", (1, 1))
    (source / "cli.py").chmod(0o600)
    assert packaged(job, source=str(source)) == once
    (source / "cli.py").write_text("print(1)")
    assert packaged(job, source=str(source)) != once


def test_the_package_that_runs_is_whole_and_small() -> None:
    data = packaged(small_job("smf", "s3://bucket/data"))
    sources = {path.relative_to(ROOT).as_posix() for path in Path(mdr_dist.__file__).parent.rglob("*.py")}
    assert {name for name in opened(data) if name.endswith(".py")} == sources
    assert len(data) < 2**20


def test_too_large(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source / "data/rows.bin").write_bytes(bytes(2**21))
    monkeypatch.setattr(package, "LIMIT_BYTES", 2**20)
    with pytest.raises(UserError, match=r"2 MiB, more than the 1 MiB .*; the largest file is mdr_dist/data/rows\.bin"):
        packaged(small_job("smf", "data"), source=str(source))


@pytest.mark.parametrize("path", JOBS, ids=lambda path: str(path.relative_to(ROOT / "jobs")))
def test_every_job_can_be_submitted_unchanged(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where no data sets are
    job = load_job(str(path))
    ready = prepared(job, "")
    sent = Job.model_validate(yaml.safe_load(opened(packaged(ready, source=str(ROOT / "mdr_dist/nn")))["job.yaml"]))
    assert sent == ready
    assert sent.launch.workers == max(1, job.launch.workers)
    assert (sent.data.path, sent.launch.storage) == (f"{tmp_path}/{job.data.path}", f"{tmp_path}/runs")
    same = {"data": {"path"}, "launch": {"workers", "storage"}}
    assert sent.model_dump(exclude=same) == job.model_dump(exclude=same)


def test_there_are_jobs() -> None:
    assert len(JOBS) > 30


def test_paths_are_from_here_and_urls_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = small_job("smf", "s3://bucket/data", launch={"workers": 3, "storage": "s3://bucket/runs"})
    assert prepared(job, "") == job
    assert prepared(job, "elsewhere").launch.storage == f"{tmp_path}/elsewhere"


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"method": {"name": "smff"}}, r"no method named 'smff'"),
        ({"method": {"dimm": 3}}, r"method smf: unknown key 'dimm'"),
        ({"method": {"dim": "wide"}}, r"method smf: dim: "),
        ({"launch": {"storage": "s3://key:word@bucket"}}, r"it holds credentials of a URL"),
        ({"data": {"path": "no://where"}}, r"no file system for this URL"),
    ],
)
def test_a_wrong_job_is_told_without_its_data(sections: dict[str, dict[str, object]], says: str) -> None:
    with pytest.raises(UserError, match=says):
        prepared(small_job("smf", "nowhere", **sections), "")


def test_where_its_data_set_is_here_a_job_is_checked_against_it(dataset: str) -> None:
    prepared(small_job("crocodile", dataset), "")
    with pytest.raises(UserError, match=r"'d9' is not in data set tiny"):
        prepared(small_job("crocodile", dataset, data={"domains": ["d9"]}), "")

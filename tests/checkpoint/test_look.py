"""`mdr checkpoint inspect` and `verify`, on a run of two lanes' worth of tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from support.command import mdr, refused
from support.jobs import small_job


@pytest.fixture(scope="module")
def run(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("look")
    job = small_job("smf", dataset, train={"epochs": 1}, method={"patience": 0}, data={"domains": ["d0", "d1"]})
    (root / "job.yaml").write_text(yaml.safe_dump(job.model_dump(mode="json")))
    with pytest.MonkeyPatch.context() as patch:
        assert mdr(patch, "train", root / "job.yaml", "--runs", root, "--quiet") == 0
    return root / job.name


def test_inspect(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert mdr(monkeypatch, "checkpoint", "inspect", run, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    width = yaml.safe_load((run / "job.yaml").read_text())["method"]["dim"]
    assert [each["lane"] for each in found] == ["smf-d0", "smf-d1"]
    for each in found:
        folder = run / "lanes" / each["lane"] / "checkpoints" / f"{each['number']:06d}"
        files = list(folder.iterdir())
        assert (each["files"], each["bytes"]) == (len(files), sum(file.stat().st_size for file in files))
        assert each["workers"] == 1 and each["stage"] == 1
        k = each["lane"][-1]
        assert set(each["tables"]) == {f"user/{k}", f"item/{k}"}
        assert all(rows > 0 and dim == width for rows, dim in each["tables"].values())
    assert mdr(monkeypatch, "checkpoint", "inspect", run) == 0
    assert "smf-d1" in capsys.readouterr().out


def test_verify(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert mdr(monkeypatch, "checkpoint", "verify", run) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(line.endswith("MB as written") for line in lines)
    shard = next(run.glob("lanes/smf-d1/checkpoints/*/__0_0.distcp"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        said = refused(monkeypatch, capsys, "checkpoint", "verify", run)
    finally:
        shard.write_bytes(content)
    assert f"{shard}: damaged: not what was written" in said
    assert "not a run with checkpoints" in refused(monkeypatch, capsys, "checkpoint", "verify", run / "lanes")

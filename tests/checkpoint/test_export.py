"""An export against the checkpoint it was made of, read with nothing of ours; and what is said of a damaged one."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from mdr_dist.checkpoint import export as module
from mdr_dist.checkpoint.export import load_export
from mdr_dist.config import Job
from mdr_dist.data.layout import read_schema
from mdr_dist.data.synthetic import configure, synthesize
from mdr_dist.errors import UserError
from mdr_dist.launch.process import export_run, train_here
from support.jobs import small_job, weights


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, str]:
    folder = tmp_path_factory.mktemp("export")
    synthesize(str(folder / "tiny"), configure("tiny", ("rows=3000",)))
    job = small_job("shared_bottom", str(folder / "tiny"), train={"epochs": 1}, data={"batch": 500})
    return job, train_here(job, str(folder / "runs"))[0]


@pytest.fixture(scope="module")
def exported(trained: tuple[Job, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "out"
    export_run(trained[1], str(out), form="safetensors")
    return out


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_manifest_tells_of_every_file(trained: tuple[Job, str], exported: Path) -> None:
    manifest = json.loads((exported / "manifest.json").read_text())
    sums = {name: hashlib.sha256((exported / name).read_bytes()).hexdigest() for name in files(exported)}
    del sums["manifest.json"]
    assert manifest["files"] == sums
    assert manifest["bytes"] == sum((exported / name).stat().st_size for name in sums)
    assert manifest["schema"] == read_schema(str(exported)).fingerprint == read_schema(trained[0].data.path).fingerprint
    assert Job.model_validate(manifest["job"]) == trained[0]
    assert manifest["format"] == "safetensors" and manifest["step"] == 7  # six steps and the stage's end


@pytest.mark.parametrize("form", ["safetensors", "parquet"])
def test_parts_hold_the_rows_in_id_order(
    form: Any, trained: tuple[Job, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, run = trained
    monkeypatch.setattr(module, "PART_ROWS", 7)
    manifest = export_run(run, str(tmp_path / "out"), form=form)
    state = weights(run, job)
    for entry in manifest["tables"]:
        want = state[f"tables/{entry['name']}"].numpy()
        assert (entry["rows"], entry["dim"]) == want.shape
        assert len(entry["parts"]) == -(-entry["rows"] // 7)
        parts = []
        for name in entry["parts"]:
            if form == "safetensors":
                parts.append(load_file(tmp_path / "out" / name)["rows"].numpy())
                continue
            part = pq.read_table(tmp_path / "out" / name).to_pydict()
            assert part["id"] == list(range(7 * len(parts), 7 * len(parts) + len(part["id"])))
            parts.append(np.array(part["row"], np.float32))
        np.testing.assert_array_equal(np.concatenate(parts), want)
    _, method, tables = load_export(str(tmp_path / "out"))
    for spec in method.tables():
        assert torch.equal(tables.shards(spec.name)[0].tensor, state[f"tables/{spec.name}"])
    for name, value in method.state_dict().items():
        assert torch.equal(value, state[f"{name}"])


def test_vocabularies_map_ids_back(trained: tuple[Job, str], exported: Path) -> None:
    schema = read_schema(str(exported))
    rows = {entry["name"]: entry["rows"] for entry in json.loads((exported / "manifest.json").read_text())["tables"]}
    for feature in (f for f in schema.of_kind("id") if f.name != "domain"):  # schema.json names the domains
        space = feature.vocabulary or feature.name
        ours, theirs = (pq.read_table(root / f"vocabulary/{space}.parquet") for root in (
            exported, Path(trained[0].data.path)))  # fmt: skip
        assert ours.equals(theirs)
        ids = ours["id"].to_pylist()
        assert len(set(ids)) == len(ids) == len(set(ours["key"].to_pylist()))
        assert set(range(rows[space])) - set(ids) <= {0, *feature.starts}  # but for default rows every row has its key


def test_an_empty_folder_is_filled_and_nothing_else_is_touched(trained: tuple[Job, str], tmp_path: Path) -> None:
    run = trained[1]
    (tmp_path / "empty").mkdir()
    export_run(run, str(tmp_path / "empty") + "/", form="safetensors")
    assert "manifest.json" in files(tmp_path / "empty")
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UserError, match=f"^{tmp_path}/mine: a file is there; name a new folder$"):
        export_run(run, str(tmp_path / "mine"), form="safetensors")
    with pytest.raises(UserError, match=f"^{tmp_path}/empty: the folder is not empty; name a new one or remove it$"):
        export_run(run, str(tmp_path / "empty"), form="safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "mine"]


def test_a_damaged_checkpoint_is_told_and_leaves_no_export(trained: tuple[Job, str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained[1], run)
    shard = next((run / "lanes/main/checkpoints").glob("*/*.distcp"))
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(UserError, match=f"^{shard}: damaged: .*remove the folder to go on"):
        export_run(str(run), str(tmp_path / "out"), form="safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def edit(path: Path, **changes: Any) -> None:
    value = json.loads(path.read_text())
    path.write_text(json.dumps({key: item for key, item in (value | changes).items() if item is not None}))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda out: cut(out / "dense.safetensors"), r"dense\.safetensors: its sha256 is not the manifest's"),
        (lambda out: cut(out / "tables/user/part-00000.safetensors"), r"part-00000\.safetensors: its sha256 is not"),
        (lambda out: (out / "tables/user/part-00000.safetensors").unlink(), r"part-00000\.safetensors: no such file"),
        (lambda out: (out / "schema.json").unlink(), r"schema\.json: no such file"),
        (lambda out: cut(out / "schema.json"), r"schema\.json: its sha256 is not the manifest's"),
        (lambda out: (out / "manifest.json").write_text("{"), r"manifest\.json: not valid JSON"),
        (lambda out: (out / "manifest.json").write_text("[]"), r"manifest\.json: not a manifest of version 1 \(no 've"),
        (
            lambda out: edit(out / "manifest.json", version=2),
            r"manifest\.json: not a manifest of version 1 \(version",
        ),
        (lambda out: edit(out / "manifest.json", tables=None), r"not a manifest of version 1 \(no 'tables'\)"),
        (lambda out: edit(out / "manifest.json", job={"name": "x"}), r"manifest\.json: job: data: Field required"),
        (lambda out: edit(out / "manifest.json", files={}), "is not listed with a checksum"),
    ],
)
def test_a_damaged_export_is_told(damage: Any, told: str, exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "out")
    damage(tmp_path / "out")
    with pytest.raises(UserError, match=told) as caught:
        load_export(str(tmp_path / "out"))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/out") and "\n" not in message

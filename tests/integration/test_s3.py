"""Everything on s3://, on a real store: the same results as on local files, and after a kill."""

from __future__ import annotations

import datetime
import gc
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import botocore.auth
import pyarrow as pa
import pytest
import torch
import yaml
from seaweedfs import KEY, SECRET

from mdr_dist import storage
from mdr_dist.checkpoint.checkpoint import Checkpoints
from mdr_dist.checkpoint.lanes import checkpoints_of
from mdr_dist.config import Job
from mdr_dist.data.layout import NewDataset, ShardWriter, read_schema
from mdr_dist.data.mapped import mapped
from mdr_dist.data.reader import Dataset, Reader
from mdr_dist.errors import UserError
from mdr_dist.launch.process import train_here
from mdr_dist.launch.status import status_of
from mdr_dist.new_folder import MARK
from mdr_dist.object_store import ObjectStore
from support.command import mdr, refused
from support.jobs import same_bits, small_job, weights
from support.object_store import counted, use

RECIPE = """
log:
  - files: ["clicks-*.csv*"]
    format: csv
    columns: {time: int, country: text, user: text, item: text, clicked: int}
labels: {label: clicked}
domain: {column: country}
time: {column: time}
features:
  - {name: user}
  - {name: item, of: item}
split: {time: {val: 0.1, test: 0.1}}
max_rejected: 3
"""


def content(url: str) -> dict[str, bytes]:
    return {name: storage.read_bytes(storage.join(url, name)) for name in storage.files(url)}


def write_job(job: Job, folder: Path) -> str:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job.model_dump(mode="json")))
    return str(path)


def said(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_the_same_results_as_on_local_files(
    s3: str, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    there, here = f"{s3}/data/tiny", str(tmp_path / "runs")
    assert mdr(monkeypatch, "synth", there, "--preset", "tiny") == 0
    assert content(there) == content(dataset)
    capsys.readouterr()
    with counted(monkeypatch) as asked:
        assert mdr(monkeypatch, "inspect", there) == 0
    assert sum(line.startswith("list_") for line in asked) == 1, "the shards were looked for one by one"
    assert said(capsys)["rows"] == sum(shard.rows for shard in Dataset.open(dataset).shards)

    job = small_job("shared_bottom", dataset, train={"epochs": 1, "save_steps": 10, "keep": 2})
    path, runs = write_job(job, tmp_path), f"{s3}/runs"
    run, local = f"{runs}/{job.name}", f"{here}/{job.name}"
    assert mdr(monkeypatch, "train", path, "--runs", here, "--quiet") == 0
    assert mdr(monkeypatch, "train", path, "--runs", runs, "--set", f"data.path={there}", "--quiet") == 0
    result = storage.read_json(f"{run}/metrics.json")["test"]
    assert result == storage.read_json(f"{local}/metrics.json")["test"]
    assert same_bits(weights(run, job), weights(local, job))
    status = status_of(run)
    assert status["state"] == "finished" and len(status["lanes"]["main"]["checkpoints"]) == 2
    assert status["lanes"]["main"]["progress"] == {
        **status_of(local)["lanes"]["main"]["progress"],
        **{key: status["lanes"]["main"]["progress"][key] for key in ("time", "rows_per_second", "epoch_seconds_left")},
    }
    events = [storage.read_bytes(f"{each}/lanes/main/events.jsonl").splitlines() for each in (run, local)]
    assert [json.loads(line)["kind"] for line in events[0]] == [json.loads(line)["kind"] for line in events[1]]

    assert mdr(monkeypatch, "export", run, f"{s3}/export") == 0
    capsys.readouterr()
    for source in (run, f"{s3}/export"):
        assert mdr(monkeypatch, "evaluate", source, "--json") == 0
        assert said(capsys) == result
    assert mdr(monkeypatch, "compare", run, local, "--format", "json") == 0
    assert [each["test"] for each in said(capsys).values()] == [result, result]
    secret = [name for name, data in content(s3).items() if SECRET.encode() in data or KEY.encode() in data]
    assert not secret, "credentials were written"


def test_a_run_that_was_killed_goes_on(s3: str, dataset: str, tmp_path: Path) -> None:
    job = small_job("shared_bottom", dataset, method={"dim": 32}, train={"epochs": 2, "save_steps": 5, "keep": 50})
    undisturbed, _ = train_here(job, str(tmp_path / "runs"))
    run, runs = f"{s3}/runs/{job.name}", f"{s3}/runs"
    command = [sys.executable, "-m", "mdr_dist", "train", write_job(job, tmp_path), "--runs", runs, "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline, checkpoints = time.monotonic() + 120, checkpoints_of(run, "main")
        while len(checkpoints.numbers()) < 2 and time.monotonic() < deadline:
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = checkpoints.numbers()
    whole, half = checkpoints.folder(done[-1]), checkpoints.folder(done[-1] + 1)
    for name in (".metadata", "progress.json"):  # a save that was killed: not yet marked, so it is no checkpoint
        storage.write_bytes(f"{half}/{name}", storage.read_bytes(f"{whole}/{name}")[:100])
    assert checkpoints.numbers() == done
    assert status_of(run)["state"] == "running"
    train_here(job, runs)
    assert same_bits(weights(run, job), weights(undisturbed, job))
    kinds = [json.loads(line)["kind"] for line in storage.read_bytes(f"{run}/lanes/main/events.jsonl").splitlines()]
    assert kinds.count("start") == 2


@pytest.mark.slow
def test_two_ray_workers(s3: str, dataset: str, tmp_path: Path) -> None:
    job = small_job("shared_bottom", dataset, train={"epochs": 1, "save_steps": 10})
    _, metrics = train_here(job, str(tmp_path / "runs"))
    there = f"{s3}/data"
    for name, data in content(dataset).items():
        storage.write_bytes(f"{there}/{name}", data)
    command = [sys.executable, "-m", "mdr_dist", "train", write_job(job, tmp_path), "--runs", f"{s3}/runs"]
    command += ["--workers", "2", "--set", f"data.path={there}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"joint epoch 1 step \d+/\d+ ", ended.stdout), "the events were not followed"
    found = storage.read_json(f"{s3}/runs/{job.name}/metrics.json")
    assert found["workers"] == 2
    assert found["test"]["macro"]["auc"] == pytest.approx(metrics["test"]["macro"]["auc"], abs=1e-6)


def test_raw_files_are_prepared_from_there_to_there(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{1_700_000_000 + n},{['de', 'fr'][n % 2]},u{n % 7},i{n * n % 11},{n % 3 == 0:d}" for n in range(400)]
    texts = [("\n".join(["time,country,user,item,clicked", *rows[at:][:200]]) + "\n").encode() for at in (0, 200)]
    packed = {"clicks-0.csv": texts[0] + b"soon,de,u1,i1,0\n", "clicks-1.csv.gz": gzip.compress(texts[1])}
    for name, data in packed.items():
        storage.write_bytes(f"{s3}/raw/{name}", data)
        storage.write_bytes(str(tmp_path / "raw" / name), data)
    recipe = tmp_path / "recipe" / "prepare.yaml"
    recipe.parent.mkdir()
    recipe.write_text(RECIPE)
    assert mdr(monkeypatch, "prepare", recipe, tmp_path / "out", "--raw", tmp_path / "raw") == 0
    with counted(monkeypatch) as asked:
        assert mdr(monkeypatch, "prepare", recipe, f"{s3}/out", "--raw", f"{s3}/raw") == 0
    listed = [line for line in asked if line.startswith("list_") and "/raw" in line]
    assert len(listed) <= 2, "raw files were looked for one by one"
    there, here = content(f"{s3}/out"), content(str(tmp_path / "out"))
    assert there.keys() == here.keys()
    for name, data in there.items():
        assert data.decode(errors="replace").replace(f"{s3}/raw", "RAW") == here[name].decode(errors="replace").replace(
            str(tmp_path / "raw"), "RAW"
        )
    assert json.loads(there["rejected/rejected.jsonl"])["file"] == f"{s3}/raw/clicks-0.csv"
    line = refused(monkeypatch, capsys, "prepare", recipe, f"{s3}/new", "--raw", f"{s3}/nowhere")
    assert "/nowhere: no such folder of raw files" in line
    assert storage.files(f"{s3}/new") == {}


def test_a_data_set_that_was_not_finished_is_none(s3: str) -> None:
    columns, table = pa.schema([("user", pa.int32())]), pa.table({"user": range(100_000)})

    def broken() -> None:
        with NewDataset(f"{s3}/data") as new:
            done, half = (ShardWriter(new.root, columns, domain=name, split="train") for name in "ab")
            done.write(table)
            done.close()
            half.write(table)
            assert list(storage.files(f"{s3}/data")) == [MARK, "domain=a/split=train/part-00000.parquet"]
            raise RuntimeError("full")

    with pytest.raises(RuntimeError, match="full"):
        broken()
    gc.collect()
    assert storage.files(f"{s3}/data") == {}, "what an abandoned writer held was written after all"
    killed = NewDataset(f"{s3}/data").__enter__()  # nothing cleans up after a SIGKILL
    ShardWriter(killed.root, columns, domain="a", split="train").write(table)
    killed.write_users(table)
    with pytest.raises(UserError, match=rf"^{s3}/data: not a data set \(no schema.json\)"):
        read_schema(f"{s3}/data")
    NewDataset(f"{s3}/data")
    assert storage.files(f"{s3}/data") == {}, "what the killed writer left is still there"


def test_tables_are_saved_in_parts_and_a_refusal_is_one_line(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ObjectStore, "default_block_size", 5 << 20)
    ObjectStore.clear_instance_cache()
    table, checkpoints = torch.randn(3 << 20), Checkpoints(f"{s3}/checkpoints")
    with counted(monkeypatch) as asked:
        checkpoints.save(7, tables={"t/weight": table}, dense={"d": torch.ones(2)}, progress={"total": 7})
    assert sum(line.startswith("upload_part ") for line in asked) >= 2
    puts = [line for line in asked if line.startswith(("put_object ", "complete_", "copy_object "))]
    assert puts[-1].endswith("/000007/DONE"), "the marker is not the last that is written"
    loaded = torch.zeros(3 << 20)
    checkpoints.load_tables(7, {"t/weight": loaded})
    assert torch.equal(loaded, table)

    answer = ObjectStore.answer

    async def refuse(self: ObjectStore, method: str, request: dict[str, Any]) -> dict[str, Any]:
        if method in ("upload_part", "get_object") and str(request.get("Key")).endswith(".distcp"):
            raise UserError(f"s3://{request['Bucket']}/{request['Key']}: the credentials have expired")
        return await answer(self, method, request)

    monkeypatch.setattr(ObjectStore, "answer", refuse)
    for call in (
        lambda: checkpoints.save(8, tables={"t/weight": table}, dense={}, progress={}),
        lambda: checkpoints.load_tables(7, {"t/weight": loaded}),
    ):
        with pytest.raises(
            UserError, match=rf"^{s3}/checkpoints/00000[78]/__0_0.distcp: the credentials have expired$"
        ):
            call()
    assert checkpoints.numbers() == [7]
    checkpoints.prune(1, also=-1)
    assert checkpoints.numbers() == [7]


def test_derived_arrays_lie_here_and_know_their_data_set(
    s3: str, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name, data in content(dataset).items():
        storage.write_bytes(f"{s3}/one/{name}", data)
        storage.write_bytes(f"{s3}/two/{name}", data)
    built: list[str] = []

    def build(folder: str) -> dict[str, Any]:
        built.append(folder)
        return {"numbers": torch.arange(5).numpy()}

    for path in (f"{s3}/one", f"{s3}/two", dataset, f"{s3}/one", f"{s3}/two"):
        found = mapped(Reader(Dataset.open(path)), "kind", key=(1,), build=build)
        assert found["numbers"].tolist() == [0, 1, 2, 3, 4]
    assert len(set(built)) == len(built) == 3
    assert all(os.path.commonpath([folder, str(tmp_path)]) == str(tmp_path) for folder in built)


def test_a_wrong_setting_is_one_line(
    s3: str, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_job(small_job("shared_bottom", dataset), tmp_path)
    lines = [refused(monkeypatch, capsys, "train", path, "--runs", "s3://none/runs")]
    use(monkeypatch, {"AWS_SECRET_ACCESS_KEY": "guess-77"})
    lines.append(refused(monkeypatch, capsys, "train", path, "--runs", f"{s3}/runs"))
    use(
        monkeypatch,
        {"AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"},
    )
    lines.append(refused(monkeypatch, capsys, "inspect", f"{s3}/data"))
    for line, words in zip(lines, ("no bucket 'none'", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"), strict=True):
        assert words in line and SECRET not in line and "guess-77" not in line


def test_a_clock_that_is_off_is_one_line(
    s3: str, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, now = write_job(small_job("shared_bottom", dataset), tmp_path), botocore.auth.get_current_datetime
    with monkeypatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", lambda: now() - datetime.timedelta(hours=1))
        for words in (("train", path, "--runs", f"{s3}/runs"), ("inspect", f"{s3}/data"), ("synth", f"{s3}/new")):
            assert "this machine's clock and that of http" in refused(patch, capsys, *words)
    assert storage.files(s3) == {}

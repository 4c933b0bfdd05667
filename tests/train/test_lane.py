"""Lanes of one run: what they take over, what they leave, and what watching a held-out loss means."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mdr_dist import storage
from mdr_dist.checkpoint.lanes import Outputs, checkpoints_of, lane_folder
from mdr_dist.config import Job
from mdr_dist.errors import UserError
from mdr_dist.launch.process import group_of_one, train_here
from mdr_dist.launch.status import status_of
from mdr_dist.stage import Slice
from mdr_dist.tables import read_table
from mdr_dist.train.lane import build_trainer, train_lane
from mdr_dist.train.run import check
from support.jobs import CPU, small_job


@pytest.fixture(scope="module")
def job(dataset: str) -> Job:
    return small_job("cat_art", dataset, train={"epochs": 2})


@pytest.fixture(scope="module")
def run(job: Job, tmp_path_factory: pytest.TempPathFactory) -> str:
    return train_here(job, str(tmp_path_factory.mktemp("runs")))[0]


def test_a_lane_saves_what_it_trains_and_finds_the_rest_upstream(job: Job, run: str) -> None:
    plan = check(job)
    for name, lane in plan.lanes.items():
        number = checkpoints_of(run, name).numbers()[-1]
        found = {key.partition("/weight")[0] for key in _keys(checkpoints_of(run, name).folder(number))}
        assert found == {table for table in lane.writes if "/" in table}, name
    saved = Outputs(run, plan.lanes.values())
    for k, domain in enumerate(plan.dataset.schema.domains):
        assert saved.lane(f"user/{k}") == f"smf-{domain}" and saved.lane(f"item/{k}") == f"art-{domain}"
    cat, art = (checkpoints_of(run, lane).dense(_newest(run, lane)) for lane in ("cat", "art-d1"))
    merged = saved.dense()
    assert torch.equal(merged["cat.pad"], cat["model/cat.pad"])
    assert torch.equal(merged["art.1.query.weight"], art["model/art.1.query.weight"])
    assert not torch.equal(merged["art.1.query.weight"], cat["model/art.1.query.weight"])


def _keys(folder: str) -> set[str]:
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader

    return {key for key in FsspecReader(folder).read_metadata().state_dict_metadata if key.endswith("/weight")}


def _newest(run: str, lane: str) -> int:
    return checkpoints_of(run, lane).numbers()[-1]


def test_a_lane_whose_needs_are_not_met_does_not_start(job: Job, tmp_path: Path) -> None:
    with group_of_one(), pytest.raises(UserError, match="no finished checkpoint yet in lane smf-d0; train it first"):
        build_trainer(job, check(job), run=str(tmp_path), lane="cat", device=CPU)


def test_a_finished_lane_is_not_done_again(job: Job, tmp_path: Path) -> None:
    run = str(tmp_path / job.name)
    with group_of_one():
        train_lane(job, run, lane="smf-d0", device=CPU)
        before = {path: path.stat().st_mtime_ns for path in Path(lane_folder(run, "smf-d0")).rglob("*")}
        whole = train_here  # the rest of the run leaves it alone
    whole(job, str(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in Path(lane_folder(run, "smf-d0")).rglob("*")} == before


def test_a_run_sums_up_its_lanes(job: Job, run: str) -> None:
    metrics, plan = storage.read_json(f"{run}/metrics.json"), check(job)
    assert list(metrics["lanes"]) == list(plan.lanes) and metrics["train"]["rows"] == sum(
        lane["rows"] for lane in metrics["lanes"].values()
    )
    names = plan.dataset.schema.domains
    for name in names:
        result = storage.read_json(f"{lane_folder(run, f'art-{name}')}/result.json")
        assert metrics["test"][name] == result["test"][name]
    mean = np.mean([metrics["test"][name]["ndcg@10"] for name in names])
    assert metrics["test"]["macro"]["ndcg@10"] == pytest.approx(mean, rel=1e-12)
    assert storage.read_json(f"{lane_folder(run, 'cat')}/result.json")["test"] is None


def test_status_shows_every_lane(job: Job, run: str) -> None:
    status = status_of(run)
    assert status["state"] == "finished"
    assert {name: lane["state"] for name, lane in status["lanes"].items()} == dict.fromkeys(
        check(job).lanes, "finished"
    )
    assert status["lanes"]["cat"]["after"] == ["smf-d0", "smf-d1", "smf-d2"]


def test_the_held_out_loss_by_hand(job: Job, run: str) -> None:
    """The last validation of a lane without patience is of the state that it left."""
    lane = "smf-d1"
    plan = check(job)
    events = [json.loads(line) for line in Path(lane_folder(run, lane), "events.jsonl").read_text().splitlines()]
    told = [event["metrics"]["macro"] for event in events if event["kind"] == "validate"][-1]
    folder = checkpoints_of(run, lane).folder(_newest(run, lane))
    tables = {spec.name: read_table(folder, spec).numpy() for spec in plan.specs(plan.lanes[lane])}
    losses, counts = [], []
    for batch in plan.source(job).sweep(Slice(split="val", domains=(1,), negatives=1)):
        real = batch.weight.numpy() > 0
        u = tables["user/1"][batch.ids["user"].numpy()[real]]
        i, j = (tables["item/1"][batch.ids[name].numpy()[real]] for name in ("item", "negative_0"))
        positive = batch.label.numpy()[real] > 0
        bpr = np.log1p(np.exp((u * (j - i)).sum(1)))[positive].mean()
        losses.append((bpr, ((u**2).sum(1) + (i**2).sum(1) + (j**2).sum(1)).mean()))
        counts.append(batch.count)
    bpr, l2 = np.average(losses, axis=0, weights=counts)
    assert told["bpr"] == pytest.approx(bpr, rel=1e-5) and told["l2"] == pytest.approx(l2, rel=1e-5)
    assert told["loss"] == pytest.approx(bpr + 1e-4 / 2 * l2, rel=1e-5)

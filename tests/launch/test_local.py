"""What is refused before Ray Train starts, and what the driver does itself; integration/test_ray.py has the rest."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from mdr_dist.errors import UserError
from mdr_dist.launch import local
from mdr_dist.launch.process import evaluate_export, train_here
from support.jobs import small_job


@pytest.mark.parametrize(
    ("launch", "says"),
    [
        ({"workers": 4}, ""),
        ({"workers": 5}, "--workers 5: they need 5 CPUs, the cluster has 4; ask for fewer workers or join more nodes"),
        ({"workers": 2, "cpus_per_worker": 2.5}, "--workers 2: they need 5 CPUs, the cluster has 4; "),
        ({"workers": 2, "gpus_per_worker": 1}, "--workers 2: they need 2 GPUs, the cluster has 0; "),
    ],
)
def test_more_workers_than_the_cluster_holds(launch: dict, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local.ray, "cluster_resources", lambda: {"CPU": 4.0, "memory": 1e9})
    job = small_job("shared_bottom", "data", launch=launch)
    if not says:
        local._check_fits(job)
        return
    with pytest.raises(UserError) as caught:
        local._check_fits(job)
    assert str(caught.value).startswith(says)


def test_the_driver_needs_no_gpu(dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its workers have some: it plans, puts results together and exports on a head that has none."""
    job = small_job("crocodile", dataset, train={"epochs": 1, "export": "safetensors"}, launch={"workers": 2})
    run, expected = train_here(job, str(tmp_path))
    (Path(run) / "metrics.json").unlink()
    shutil.rmtree(Path(run) / "export")

    def touched() -> None:
        raise AssertionError("the driver touched a GPU")

    def no_more(*_: object, **__: object) -> None:
        """The lanes are done."""

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "_lazy_init", touched)
    monkeypatch.setattr(local.ray, "cluster_resources", lambda: {"CPU": 4.0, "GPU": 2.0})
    monkeypatch.setattr(local, "connected", lambda _: contextlib.nullcontext())
    for name in ("run_lanes", "check_nodes"):
        monkeypatch.setattr(local, name, no_more)
    with_gpus = job.model_copy(update={"launch": job.launch.model_copy(update={"gpus_per_worker": 1})})
    assert local.train_on_ray(with_gpus, str(tmp_path), address="auto") == (run, expected)
    assert len(json.loads((Path(run) / "plan.json").read_text())["tables"]) > 1
    (left,) = (Path(run) / "export").iterdir()
    shutil.rmtree(left)  # as if the driver had died between metrics and export
    assert local.train_on_ray(with_gpus, str(tmp_path), address="auto") == (run, expected)
    assert (left / "manifest.json").exists()
    (export,) = (Path(run) / "export").iterdir()
    assert evaluate_export(str(export)) == expected["test"]

"""Small jobs for every method, and what they leave behind."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdr_dist.batch import Batch, world_size
from mdr_dist.checkpoint.lanes import lane_folder
from mdr_dist.config import Job
from mdr_dist.errors import Stopped
from mdr_dist.stage import Stage
from mdr_dist.tables import read_table
from mdr_dist.train.attempt import open_run
from mdr_dist.train.lane import build_trainer, train_lane
from mdr_dist.train.lane import train as train_run
from mdr_dist.train.run import check, outputs
from mdr_dist.train.step import train_step
from mdr_dist.train.trainer import Trainer

# sizes at which a contract test takes seconds; a method that is not here runs at its defaults
SMALL: dict[str, dict[str, Any]] = {
    "crocodile": {"dim": 8, "prior_dim": 8, "num_experts": 3, "experts": [16, 8], "towers": [8]},
    "adc": {"dim": 8, "hidden": 2, "negatives": 2},
    "cat_art": {"dim": 8},
    "cl4rec": {"dim": 8},
    "cdcf": {"dim": 8},
    "clfm": {"dim": 8},
    "conet": {"dim": 8, "layers": [8, 6, 4], "sparsity": 0.001},
    "cmf": {"dim": 8},
    "tado": {"dim": 8},
    "smf": {"dim": 8},
    "cmf_rating": {"dim": 8},
    "emcdr": {"dim": 8, "factor_epochs": 2, "patience": 8},
    "cdlfm": {"dim": 8, "factor_epochs": 2, "patience": 8, "neighbours": 5, "linked": 25},
    "dfm": {"dim": 8, "hidden": 16, "mapped": 8, "ratings": 10, "factor_epochs": 2, "patience": 8},
    "r_dfm": {"dim": 8, "hidden": 16, "mapped": 8, "ratings": 10, "word_dim": 8, "factor_epochs": 2, "patience": 8},
    "shared_bottom": {"dim": 8, "bottom": [16, 8], "towers": [8]},
    "mmoe": {"dim": 8, "num_experts": 3, "experts": [16, 8], "gate_hidden": [8], "towers": [8]},
    "sml": {"dim": 8, "init_std": 0.5, "rounds": 2, "hidden": 16, "first_epochs": 4},
    "fine_tune": {"dim": 8, "init_std": 0.5, "epochs": 2, "first_epochs": 4},
    "full_retrain": {"dim": 8, "init_std": 0.5, "epochs": 2, "first_epochs": 4},
    "spmf": {"dim": 8, "init_std": 0.5, "epochs": 2, "first_epochs": 4, "reservoir": 100},
    "gru4rec": {"dim": 8, "epochs": 2, "first_epochs": 4, "length": 4},
    "anr": {"word_dim": 8, "dense_words": 0, "aspects": 2, "dim": 4, "importance": 6, "patience": 0},
    "catn": {"word_dim": 8, "aspects": 2, "filters": 6, "dim": 4, "patience": 0},
    "caser": {"dim": 8, "epochs": 2, "first_epochs": 4, "length": 4, "horizontal": 4, "vertical": 2},
}
RATING = frozenset({"bias", "cmf_rating", "emcdr", "cdlfm", "dfm"})  # they need ratings of two domains
READING = frozenset({"anr", "catn", "r_dfm"})  # they need reviews
MAPPED = ("emcdr", "cdlfm", "dfm", "r_dfm")  # they map users of one domain to the other
PERIODIC = frozenset({"sml", "fine_tune", "full_retrain", "spmf", "gru4rec", "caser"})  # they need periods
# a method otherwise than by default: its name is among the settings
VARIANTS: dict[str, dict[str, Any]] = {
    "cl4rec-autoencoder": {"name": "cl4rec", "backbone": "autoencoder", "dim": 8, "inner": [8]},
    "cl4rec-graph": {
        "name": "cl4rec",
        "backbone": "graph",
        "dim": 8,
        "init_std": 0.2,  # outputs of length 1 magnify the rounding of small ones
        "layers": [8, 4],
        "neighbours": 4,
        "patience": 0,  # BPR is a batch's mean, so where labels differ the best state depends on what batches hold
    },
}
# they have stages over users, of whom there are few
BATCH = {"cat_art": 32, "cl4rec-autoencoder": 4, "anr": 16, "catn": 16} | dict.fromkeys(MAPPED, 8) | {"r_dfm": 4}
# of few steps: several processes agree to stop at every 16th; but of CAT-ART's seven lanes each has enough
EPOCHS = {"anr": 4, "catn": 3, "cat_art": 1} | dict.fromkeys(MAPPED, 8)
CPU = torch.device("cpu")


def small_job(method: str, dataset: str, /, **sections: dict[str, Any]) -> Job:
    """A job of a few seconds."""
    value: dict[str, Any] = {
        "name": f"{method}-test",
        "data": {"path": dataset, "batch": BATCH.get(method, 64)},
        "method": {"name": method, **SMALL.get(method, {}), **VARIANTS.get(method, {})},
        "tables": {"lr": 0.05},
        "eval": {"ks": [5, 10]},
        "train": {"epochs": EPOCHS.get(method, 2), "threads": 1, "log_steps": 1, "save_minutes": 0},
    }
    for section, keys in sections.items():
        value[section] = {**value.get(section, {}), **keys}
    return Job.model_validate(value)


def train(job: Job, runs: str, *, stop_at: int = 0, lane: str = "main") -> str:
    """Train in this process of its group; the run's folder. With `stop_at`, ask by SIGTERM to stop after that step of
    the lane, those upstream of it done."""
    run = open_run(job, runs) if world_size() == 1 or torch.distributed.get_rank() == 0 else f"{runs}/{job.name}"
    if world_size() > 1:
        torch.distributed.barrier()
    if not stop_at:
        train_run(job, run, device=CPU)
        return run
    plan = check(job)
    for above in plan.lanes[lane].upstream:
        train_lane(job, run, lane=above, device=CPU)
    trainer = build_trainer(job, plan, run=run, lane=lane, device=CPU)
    step = trainer.monitor.step

    def stopping(progress: Any, *args: Any, **kwargs: Any) -> None:
        step(progress, *args, **kwargs)
        if progress.total == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer.monitor.step = stopping
    try:
        trainer.run()
    except Stopped:
        return run
    raise AssertionError("the run was not stopped")


def weights(run: str, job: Job) -> dict[str, Tensor]:
    """Every table and dense tensor of a run's newest state."""
    plan = check(job)
    saved = outputs(run, plan, job)
    state = {f"tables/{spec.name}": read_table(saved.folder(spec.name), spec) for spec in plan.method.tables()}
    return state | saved.dense()


def losses(run: str, lane: str = "main") -> list[dict[str, float]]:
    """The losses of every step of a lane, in order."""
    return [event["losses"] for event in _steps(run, lane)]


def steps_of(run: str, lane: str = "main") -> dict[str, list[int]]:
    """Stage → what `Progress.total` was after each of its steps."""
    found: dict[str, list[int]] = {}
    for event in _steps(run, lane):
        found.setdefault(event["stage"], []).append(event["total"])
    return found


def _steps(run: str, lane: str) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (Path(lane_folder(run, lane)) / "events.jsonl").read_text().splitlines()]
    return [event for event in events if event["kind"] == "step"]


def largest_gap(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    """The largest absolute difference; infinite where names or shapes differ."""
    if one.keys() != two.keys() or any(one[n].shape != two[n].shape for n in one):
        return float("inf")
    return max(float((one[name].double() - two[name].double()).abs().max()) for name in one)


def same_bits(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    """Whether everything is equal bit for bit."""
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def fixed_steps(trainer: Trainer, stage: Stage, steps: int) -> list[dict[str, float]]:
    """The first `steps` steps of a stage; the losses of each, averaged over processes."""
    for operation in stage.before:
        operation(trainer.tables)
    trainer.tables.start_stage(stage)
    dense = trainer.make_dense(stage)
    taken: list[dict[str, float]] = []
    for batch in itertools.islice(_epochs(trainer, stage), steps):
        torch.manual_seed(batch.seed)
        shares = train_step(trainer.tables, stage, batch=batch, dense=dense)
        taken.append({name: float(batch.total(share) / world_size()) for name, share in shares.items()})
    for operation in stage.after:
        operation(trainer.tables)
    return taken


def _epochs(trainer: Trainer, stage: Stage) -> Iterator[Batch]:
    for epoch in itertools.count():
        yield from trainer.source.batches(stage.data, stage=stage.name, epoch=epoch)


def full_table(tables: Any, name: str) -> Tensor:
    """A whole table, put together from every process's shards."""
    spec = tables.specs[name]
    own = [(shard.tensor.detach().cpu().clone(), shard.row_start, shard.col_start) for shard in tables.shards(name)]
    parts: list[Any] = [own]
    if world_size() > 1:
        parts = [None] * world_size()
        torch.distributed.all_gather_object(parts, own)
    full = torch.full((spec.rows, spec.dim), float("nan"))
    for tensor, row, column in (piece for pieces in parts for piece in pieces):
        full[row : row + tensor.shape[0], column : column + tensor.shape[1]] = tensor
    return full

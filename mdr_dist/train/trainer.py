"""Runs stages in order. Knows no method by name, and starts always as a resume.

The order of data is a function of (seed, stage, epoch) and its place a number, random draws of a step a function of
the step: so three integers, the tables and the dense state are all there is to save.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mdr_dist.batch import Batch, world_size
from mdr_dist.checkpoint.checkpoint import Checkpoints
from mdr_dist.checkpoint.grown import Identity, load_dense
from mdr_dist.checkpoint.lanes import Outputs
from mdr_dist.config import EvalConfig, TrainConfig
from mdr_dist.data.source import Source
from mdr_dist.errors import Left, Stopped, UserError
from mdr_dist.eval.evaluate import Measured, evaluate
from mdr_dist.methods.base import Method
from mdr_dist.stage import Slice, Stage
from mdr_dist.tables import Tables
from mdr_dist.train.dense import DenseOptimizers
from mdr_dist.train.interrupt import Interrupts
from mdr_dist.train.monitor import NOT_FINITE, Monitor
from mdr_dist.train.progress import Progress
from mdr_dist.train.step import train_step

LOSS = "loss"  # the monitor that is no metric
ERRORS = frozenset({"logloss", "mse", "rmse", "mae", LOSS})  # metrics that are better when lower


@dataclass(kw_only=True)
class Trainer:
    """Everything a lane needs, in one process of its group.

    `identity` says whose checkpoints these are, `saves` which tables go into them; `upstream`, where the lane needs
    others, is what those left.
    """

    method: Method
    tables: Tables
    source: Source
    checkpoints: Checkpoints
    monitor: Monitor
    stages: tuple[Stage, ...]
    config: TrainConfig
    make_dense: Callable[[Stage], DenseOptimizers]
    device: torch.device
    identity: Identity
    saves: frozenset[str]
    validates: Callable[[Stage], bool]  # whether the data set's val split has rows of the stage's domains
    upstream: Outputs | None = None
    asked_to_leave: Callable[[], bool] = lambda: False  # see `Interrupts`
    evaluation: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        self.progress = Progress()
        self._dense_state: dict[str, Tensor] = {}  # of the stages before; a later one that trains the same takes it up
        self._interrupts = Interrupts(self.config, self.asked_to_leave)

    def run(self) -> None:
        """Run what is left of the stages."""
        with self._interrupts.listening(), contextlib.closing(self.monitor):
            self.inherit()
            self.restore(self.checkpoints.latest())
            self.monitor.started(self.progress)
            for index in range(self.progress.stage, len(self.stages)):
                stage = self.stages[index]
                dense = self._enter(stage)
                self._epochs(stage, dense)
                self._leave(stage, dense)

    def inherit(self) -> None:
        """Take up what the lanes upstream left: the start of this one, and all of what it reads and does not save.

        Optimizer state of tables goes on, as from stage to stage: a fresh Adagrad's first steps have the full learning
        rate and would undo what the lanes before have learnt.
        """
        if self.upstream:
            self.upstream.check(self.identity)
            load_dense(self.method, self.upstream.dense())
            self.upstream.load(self.tables, self.tables.specs, optimizer=True)

    def restore(self, number: int | None) -> None:
        """Take up a checkpoint, if there is one."""
        if number is None:
            return
        self.checkpoints.check(number, self.identity)
        saved = self.checkpoints.progress(number)
        dense = self.checkpoints.dense(number)
        load_dense(self.method, {n[6:]: t for n, t in dense.items() if n.startswith("model/")})
        self.tables.load(lambda state: self.checkpoints.load_tables(number, self._own(state)))
        self.progress = Progress.from_json(saved["progress"])
        self._dense_state = {name[10:]: tensor for name, tensor in dense.items() if name.startswith("optimizer/")}

    def _own(self, state: dict[str, Any]) -> dict[str, Any]:
        """The part of the tables' state that belongs into this lane's checkpoints."""
        return {key: value for key, value in state.items() if key.rpartition("/")[0] in self.saves}

    def save(self, dense: DenseOptimizers | None) -> None:
        """Write a checkpoint of this moment, unless a loss on the way to it was not finite."""
        self.monitor.check(self.progress)
        tensors = {f"model/{n}": t for n, t in self.method.state_dict().items()}
        state = self._dense_state | (dense.state() if dense else {})
        tensors |= {f"optimizer/{n}": t for n, t in state.items()}
        progress = {"identity": self.identity.to_json(), "world": world_size(), "progress": self.progress.to_json()}
        self.checkpoints.save(
            self.progress.total, tables=self._own(self.tables.state()), dense=tensors, progress=progress
        )
        self.checkpoints.prune(self.config.keep, also=self.progress.best_at)
        self._interrupts.saved()
        self.monitor.saved(self.progress)

    def _enter(self, stage: Stage) -> DenseOptimizers:
        if not (self.progress.epoch or self.progress.step):
            if stage.pretest:
                self.monitor.tested(stage, metrics=self.measure(stage.pretest).metrics, before=True)
            for operation in stage.before:
                operation(self.tables)
        self.tables.start_stage(stage)
        dense = self.make_dense(stage)
        dense.load_state(self._dense_state)
        return dense

    def _epochs(self, stage: Stage, dense: DenseOptimizers) -> None:
        epochs = self._epochs_of(stage)
        patience = patience_of(stage, self.config)
        while self.progress.epoch < epochs and not (patience and self.progress.stale >= patience):
            self._epoch(stage, dense)
            self.progress = replace(self.progress, epoch=self.progress.epoch + 1, step=0)
            between = epochs_between(stage, self.config, validates=self.validates(stage))
            if between and self.progress.epoch % between == 0:
                self._validate(stage, dense, patience=patience)

    def _epochs_of(self, stage: Stage) -> int:
        return stage.until.epochs or self.config.epochs

    def _epoch(self, stage: Stage, dense: DenseOptimizers) -> None:
        start = self.progress.step
        self.monitor.start_epoch(stage, steps=self.source.steps(stage.data), epochs=self._epochs_of(stage))
        batches = self.source.batches(stage.data, stage=stage.name, epoch=self.progress.epoch, start=start)
        for step, batch in enumerate(batches, start):
            losses = self._step(stage, batch, dense)
            self.progress = replace(self.progress, step=step + 1, total=self.progress.total + 1)
            self.monitor.step(self.progress, losses, rows=batch.count)
            self._maybe_save(dense)

    def _step(self, stage: Stage, batch: Batch, dense: DenseOptimizers) -> dict[str, Tensor]:
        _seed(batch.seed, self.device)
        try:
            return train_step(self.tables, stage, batch=batch.to(self.device), dense=dense)
        except FloatingPointError as error:
            at = f"epoch {self.progress.epoch + 1}, step {self.progress.step + 1}"
            raise FloatingPointError(f"{error} at {at}; {NOT_FINITE}") from None

    def _maybe_save(self, dense: DenseOptimizers) -> None:
        wanted = self._interrupts.after(self.progress.total)
        if wanted.save:
            self.save(dense)
        if wanted.stop:
            raise Stopped(f"stopped at step {self.progress.total} with a checkpoint; the same command goes on from it")
        if wanted.leave:
            raise Left

    def _validate(self, stage: Stage, dense: DenseOptimizers, *, patience: int) -> None:
        name = monitored(stage, self.config)
        metrics = self.held_out_loss(stage) if name == LOSS else self.measure(held_out(stage)).metrics
        value = _gain(metrics["macro"], name, needed=patience > 0)
        better = value > self.progress.best
        if better:
            self.progress = replace(self.progress, best=value, best_at=self.progress.total, stale=0)
        else:
            self.progress = replace(self.progress, stale=self.progress.stale + 1)
        self.monitor.validated(stage, self.progress, metrics=metrics, monitor=name)
        if patience and better:
            self.save(dense)

    @torch.no_grad()
    def held_out_loss(self, stage: Stage) -> dict[str, Any]:
        """`{"macro": {"<name>": …, "loss": …}}`: its losses on the `val` split of its data, and their weighted sum."""
        sums: dict[str, float] = {}
        count, training = 0, self.method.training
        self.method.eval()
        for batch in self.source.sweep(replace(stage.data, split="val")):
            moved = batch.to(self.device)
            for name, share in stage.loss(self.tables(moved), moved).items():
                value = float(moved.total(share)) / world_size()
                sums[name] = sums.get(name, 0.0) + value * batch.count
            count += batch.count
        self.method.train(training)
        means = {name: total / count for name, total in sums.items()}
        weighted = sum(stage.update.weights.get(name, 1.0) * mean for name, mean in means.items())
        return {"macro": {**means, LOSS: weighted}}

    def measure(self, slice_: Slice) -> Measured:
        """How good the state is on a slice."""
        with self.tables.all_read():
            return evaluate(
                self.method, self.tables, source=self.source, slice_=slice_, device=self.device, config=self.evaluation
            )

    def _leave(self, stage: Stage, dense: DenseOptimizers) -> None:
        patience = patience_of(stage, self.config)
        total = self.progress.total
        if patience and 0 <= self.progress.best_at < total:
            self.restore(self.progress.best_at)
            dense.load_state(self._dense_state)
        self._dense_state |= dense.state()
        for operation in stage.after:
            operation(self.tables)
        if stage.test:
            self.monitor.tested(stage, metrics=self.measure(stage.test).metrics, before=False)
        self.progress = Progress(stage=self.progress.stage + 1, total=total + 1)
        self.save(None)


def monitored(stage: Stage, config: TrainConfig, known: tuple[str, ...] = ()) -> str:
    """The metric that a stage watches, or `loss`; a `UserError` if it is not among those `known`."""
    name = stage.until.monitor or config.monitor
    if known and name not in (*known, LOSS):
        raise UserError(f"train.monitor: no metric {name!r}; there are: {', '.join((*known, LOSS))}")
    return name


def patience_of(stage: Stage, config: TrainConfig) -> int:
    """After how many evaluations without a gain a stage ends; 0: never. What the method says goes before the job."""
    return config.patience if stage.until.patience is None else stage.until.patience


def epochs_between(stage: Stage, config: TrainConfig, *, validates: bool) -> int:
    """Epochs between a stage's evaluations, 0: none, as where no val split `validates` and no patience needs one."""
    return config.eval_epochs if validates or patience_of(stage, config) else 0


def held_out(stage: Stage) -> Slice:
    """What a stage's metric is measured on while it trains."""
    return Slice(split="val", domains=stage.data.domains, context=stage.data.context)


def _seed(seed: int, device: torch.device) -> None:
    """Make dropout a function of the step, so that a resumed run draws the same.

    `torch.manual_seed` would also note, with the stack it is called from, what to do on devices that are not there.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def _gain(metrics: dict[str, Any], name: str, *, needed: bool) -> float:
    """The monitored metric, turned so that higher is better; -inf where it cannot be measured and nobody needs it."""
    if name not in metrics:
        raise UserError(f"train.monitor: no metric {name!r}; there are: {', '.join(sorted(metrics))}")
    value = metrics[name]
    if value is None and needed:
        raise UserError(
            f"train.monitor: {name} does not exist where all labels are alike, as in every domain measured here; "
            "monitor logloss, or set train.patience to 0"
        )
    if value is None:
        return float("-inf")
    return -value if name in ERRORS else value

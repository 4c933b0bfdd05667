"""Scoring a slice and measuring it, over all processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from mdr_dist.batch import world_size
from mdr_dist.config import EvalConfig
from mdr_dist.data.source import Source
from mdr_dist.errors import UserError
from mdr_dist.eval.collect import Collector, RankCollector, RateCollector
from mdr_dist.eval.figures import UserFigures
from mdr_dist.eval.ranking import Lookup, means, rank_users
from mdr_dist.eval.ties import METRICS
from mdr_dist.methods.base import Method
from mdr_dist.stage import Slice


class Measured(NamedTuple):
    """`metrics` by domain, the same in every process; `users`, what they are means of, in process 0.

    `users` is empty where rows' scores are measured.
    """

    metrics: dict[str, Any]
    users: Mapping[str, UserFigures]


def evaluate(
    method: Method,
    lookup: Lookup,
    *,
    source: Source,
    slice_: Slice,
    device: torch.device,
    config: EvalConfig = EvalConfig(),  # noqa: B008 (frozen)
) -> Measured:
    """Measure a slice: rows' scores, as logits or as ratings, or full ranking if the method retrieves."""
    if method.task != "retrieve":
        return Measured(score(method, lookup, source=source, slice_=slice_, device=device), {})
    users = rank_users(method, lookup, source=source, slice_=slice_, config=config, device=device)
    return Measured(means(users, config), users)


def metric_names(method: Method, config: EvalConfig) -> tuple[str, ...]:
    """The metrics that `evaluate` gives, which training may watch."""
    if method.task == "retrieve":
        return tuple(f"{name}@{k}" for name in METRICS for k in config.ks)
    if method.task == "rate":
        return (*RateCollector.METRICS, *(("bayes_mse",) if method.schema.truth else ()))
    return ("auc", "gauc", "logloss", *(("bayes_auc",) if method.schema.truth else ()))


@torch.no_grad()
def score(method: Method, lookup: Lookup, *, source: Source, slice_: Slice, device: torch.device) -> dict[str, Any]:
    """Metrics of every row's score: `{"<domain>": {...}, "macro": {...}, "pooled": {...}}`.

    Exact: every process's scores are gathered, so the figures do not depend on how rows fell to processes. A
    `UserError` if a label is neither 0 nor 1, where scores are logits.
    """
    schema = method.schema
    collector = RateCollector() if method.task == "rate" else RankCollector()
    training = method.training
    method.eval()
    for batch in source.sweep(slice_):
        moved = batch.to(device)
        scores = method.score(lookup(moved), moved)
        real = batch.weight > 0
        if method.task == "rank":
            _check_labels(batch.label[real], source=source, slice_=slice_)
        truth = batch.labels[schema.truth][real].numpy() if schema.truth else None
        collector.add(
            scores.float().cpu()[real].numpy(),
            batch.label[real].numpy(),
            domain=batch.domain[real].numpy(),
            user=batch.user_key[real].numpy(),
            truth=truth,
        )
    method.train(training)
    return _shared(collector, schema.domains)


def _check_labels(label: Tensor, *, source: Source, slice_: Slice) -> None:
    odd = label[(label != 0) & (label != 1)]
    if len(odd):
        dataset = source.dataset
        name = dataset.schema.labels[0]
        raise UserError(
            f"{dataset.path}: split {slice_.split} has a row whose {name} is {odd[0].item():g}; ranking needs 0 and 1: "
            f"prepare the data set with a label such as `{name} >= {odd[0].item():g}`"
        )


def _shared(collector: Collector, domains: tuple[str, ...]) -> dict[str, Any]:
    if world_size() == 1:
        return collector.result(domains)
    states: list[Any] = [None] * world_size() if dist.get_rank() == 0 else []
    dist.gather_object(collector.state(), states if dist.get_rank() == 0 else None)
    result: list[Any] = [None]
    if dist.get_rank() == 0:
        result = [type(collector).merge(states).result(domains)]
    dist.broadcast_object_list(result)
    return result[0]

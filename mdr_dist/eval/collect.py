"""Scored rows of all workers, gathered and measured by domain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mdr_dist.eval import metrics
from mdr_dist.eval.metrics import USER_LIMIT, Floats, auc, count_wins, known, logloss, macro, weighted

Figures = dict[str, float | int | None]


class Collector:
    """Gathers scored rows and measures them per domain; some 10 to 18 bytes a row.

    Workers each `add` their rows; `merge` of their `state()`s measures all of them. A subclass says what is measured.
    """

    def __init__(self) -> None:
        self._chunks: list[dict[str, NDArray[Any]]] = []

    def add(
        self,
        score: ArrayLike,
        label: ArrayLike,
        *,
        domain: ArrayLike,
        user: ArrayLike,
        truth: ArrayLike | None = None,
    ) -> None:
        """Add real rows (no padding): scores [N], labels, domain numbers, user keys, true probabilities or ratings.

        Scores are kept as float32. `truth` is given with every chunk or with none. Errors as in `checked`.
        """
        scores, labels = self.checked(np.asarray(score, np.float32), label)
        users = np.asarray(user)
        small = users.size == 0 or (int(users.min()) >= -USER_LIMIT and int(users.max()) < USER_LIMIT)
        chunk = {
            "score": scores.copy(),
            "label": labels,
            "domain": np.asarray(domain).astype(np.uint16),
            "user": users.astype(np.int32 if small else np.int64),
        }
        if truth is not None:
            chunk["truth"] = np.array(truth, np.float32)
        lengths = {name: len(column) for name, column in chunk.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns differ in length: {lengths}")
        if self._chunks and self._chunks[0].keys() != chunk.keys():
            raise ValueError("truth must be given with every chunk or with none")
        self._chunks.append(chunk)

    @staticmethod
    def checked(score: Floats, label: ArrayLike) -> tuple[Floats, NDArray[Any]]:
        """Scores and labels as they are kept; `ValueError` for those that cannot be measured."""
        raise NotImplementedError

    @staticmethod
    def measure(rows: Mapping[str, NDArray[Any]]) -> Figures:
        """The metrics of some rows, by column; beside them `rows` and `users`."""
        raise NotImplementedError

    def state(self) -> dict[str, NDArray[Any]]:
        """Column → all rows, to be sent to another process; empty if nothing was added."""
        if len(self._chunks) > 1:
            whole: dict[str, NDArray[Any]] = {}
            for name in list(self._chunks[0]):
                whole[name] = np.concatenate([chunk.pop(name) for chunk in self._chunks])
            self._chunks = [whole]
        return self._chunks[0] if self._chunks else {}

    @classmethod
    def merge(cls, states: Iterable[Mapping[str, NDArray[Any]]]) -> Self:
        """A collector of all the states' rows."""
        collector = cls()
        collector._chunks = [dict(state) for state in states if state]
        if len({frozenset(chunk) for chunk in collector._chunks}) > 1:
            raise ValueError("truth must be given by every worker or by none")
        return collector

    def result(self, domains: Sequence[str]) -> dict[str, Figures]:
        """Domain name → what `measure` gives; `macro`, `pooled`.

        Domains without rows are left out. `macro` is the mean over
        the domains that have the metric; `pooled` takes all rows as one set, a user's rows of all domains together: the
        "Overall" of the Crocodile paper. A metric that does not exist, for want of one of the classes, is None.
        """
        rows = self.state()
        if not rows:
            return {"macro": {}, "pooled": {}}
        found: dict[str, Figures] = {}
        for number, name in enumerate(domains):
            here = rows["domain"] == number
            if here.any():
                found[name] = self.measure({column: values[here] for column, values in rows.items()})
        if sum(int(entry["rows"] or 0) for entry in found.values()) != len(rows["domain"]):
            raise ValueError(f"domain numbers reach {int(rows['domain'].max())}, but only {len(domains)} have names")
        return {**found, "macro": macro(list(found.values())), "pooled": self.measure(rows)}


class RankCollector(Collector):
    """Logits of labels 0 and 1."""

    @staticmethod
    def checked(score: Floats, label: ArrayLike) -> tuple[Floats, NDArray[Any]]:
        """Errors as in `auc`."""
        scores, labels = metrics.checked(score, label)
        return scores, labels.astype(np.uint8)

    @staticmethod
    def measure(rows: Mapping[str, NDArray[Any]]) -> Figures:
        """`auc gauc logloss rows users` and, where there is a truth, `bayes_auc`: the AUC of true probabilities."""
        score, label = rows["score"], rows["label"]
        by_user = count_wins(score, label, rows["user"])
        with np.errstate(over="ignore"):
            chance = 1 / (1 + np.exp(-score.astype(np.float64)))
        values: Figures = {
            "auc": known(auc(score, label)),
            "gauc": known(weighted(*by_user)),
            "logloss": known(logloss(chance, label)),
            "rows": len(score),
            "users": len(by_user[0]),
        }
        if "truth" in rows:
            values["bayes_auc"] = known(auc(rows["truth"], label))
        return values


class RateCollector(Collector):
    """Ratings."""

    METRICS = ("mse", "rmse", "mae")

    @staticmethod
    def checked(score: Floats, label: ArrayLike) -> tuple[Floats, NDArray[Any]]:
        """`ValueError` for a score that is not a number."""
        if np.isnan(score).any():
            raise ValueError(f"{int(np.isnan(score).sum())} of {score.size} scores are NaN")
        return score, np.asarray(label, np.float32)

    @staticmethod
    def measure(rows: Mapping[str, NDArray[Any]]) -> Figures:
        """`mse rmse mae rows users` and, where there is a truth, `bayes_mse`: the squared error of true ratings."""
        found: Figures = {name: getattr(metrics, name)(rows["score"], rows["label"]) for name in RateCollector.METRICS}
        if "truth" in rows:
            found["bayes_mse"] = metrics.mse(rows["truth"], rows["label"])
        return {**found, "rows": len(rows["score"]), "users": len(np.unique(rows["user"]))}

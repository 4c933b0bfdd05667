"""Results of runs side by side: domain × run."""

from __future__ import annotations

import csv
import io
import json
import os
from typing import Any, Literal

from rich.table import Table

from mdr_dist import storage
from mdr_dist.errors import UserError
from mdr_dist.eval.gains import gains

Results = dict[str, dict[str, Any]]  # run → metrics.json


def read_results(runs: tuple[str, ...]) -> Results:
    """The `metrics.json` of each run, by the run's name; a `UserError` for one that has not finished."""
    results: Results = {}
    for run in runs:
        path = storage.join(run, "metrics.json")
        if not storage.exists(path):
            raise UserError(f"{run}: no metrics.json; the run is unfinished or this is not a run's folder")
        name = _name(run)
        results[run if name in results else name] = storage.read_json(path)
    return results


def usual_metrics(results: Results) -> tuple[str, ...]:
    """What to show where nobody says: recall and NDCG in the top 10, or of the first k there is, or AUC and gAUC.

    Of ratings the squared and the absolute error.
    """
    names = next(iter(results.values()))["test"]["macro"]
    if "mse" in names:
        return ("mse", "mae")
    recalls = [name for name in names if name.startswith("recall@")]
    if not recalls:
        return ("auc", "gauc")
    chosen = "recall@10" if "recall@10" in recalls else recalls[0]
    return (chosen, f"ndcg@{chosen.partition('@')[2]}")


def rows_of(results: Results, metrics: tuple[str, ...]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table: a row a domain, then macro and pooled; a column a run and metric."""
    header = ["domain"] + [f"{run} {metric}" for run in results for metric in metrics]
    first = next(iter(results.values()))["test"]
    body = []
    for domain in first:
        cells = [results[run]["test"].get(domain, {}).get(metric) for run in results for metric in metrics]
        body.append([domain] + ["-" if cell is None else f"{cell:.4f}" for cell in cells])
    return header, body


def rendered(
    results: Results, metrics: tuple[str, ...], form: Literal["table", "markdown", "csv", "json"]
) -> str | Table:
    """The table in one of its forms."""
    if form == "json":
        return json.dumps(results, indent=1)
    return _written(*rows_of(results, metrics), form=form)


def rendered_gains(
    runs: tuple[str, ...], against: str, *, metrics: tuple[str, ...], form: Literal["table", "markdown", "csv", "json"]
) -> str | Table:
    """Each run's gain over the run `against`, by domain: the mean over users, its interval and the verdict."""
    found = {run: {metric: gains([run], [against], metric=metric) for metric in metrics} for run in runs}
    if form == "json":
        plain = {
            run: {metric: {domain: gain._asdict() for domain, gain in part.items()} for metric, part in parts.items()}
            for run, parts in found.items()
        }
        return json.dumps({"against": against, "gains": plain}, indent=1)
    header = ["domain", "run", "metric", "gain", "low", "high", "verdict", "users"]
    body = [
        [domain, _name(run), metric, *(f"{value:+.4f}" for value in gain[1:4]), gain.verdict, str(gain.users)]
        for run, parts in found.items()
        for metric, part in parts.items()
        for domain, gain in part.items()
    ]
    return _written(header, body, form=form)


def _name(run: str) -> str:
    return run.rstrip("/").rpartition("/")[2]


def _written(header: list[str], body: list[list[str]], *, form: Literal["table", "markdown", "csv"]) -> str | Table:
    if form == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *body])
        return text.getvalue().rstrip()
    if form == "markdown":
        lines = [header, ["---"] * len(header), *body]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    # a terminal is narrow: what all the names begin with says nothing
    common = os.path.commonprefix(header[1:]).rpartition("-")[0] if len(header) > 2 else ""  # noqa: RUF071
    table = Table(*(name.removeprefix(f"{common}-") for name in header))
    for line in body:
        table.add_row(*line)
    return table

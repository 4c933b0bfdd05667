"""The tables of a study's report: what `study.py` writes to RESULTS.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.stats import ttest_1samp

from mdr_dist.data.layout import read_schema
from mdr_dist.eval.gains import gains
from mdr_dist.schema import Schema
from mdr_dist.train.trainer import ERRORS

_SPLITS = {"train": "training", "val": "validation", "test": "test"}
ALSO = "also.json"  # in a run's folder: how it does with other settings of `eval`
Values = NDArray[np.float64]  # [seeds, domains]


class Column(BaseModel):
    """A job, what is set over it, and whether it is trained on each domain alone."""

    model_config = ConfigDict(extra="forbid")
    job: str
    set: dict[str, Any] = {}
    single: bool = False


class Moments(BaseModel):
    """What a schedule was measured to reach on its way."""

    model_config = ConfigDict(extra="forbid")
    of: Literal["before", "after"]
    domain: str = "macro"


class Study(BaseModel):
    """What `study.yaml` holds."""

    model_config = ConfigDict(extra="forbid")
    make: str
    data: str
    sets: tuple[str, ...] = ("",)
    seeds: tuple[int, ...]
    subject: str
    baseline: str = ""
    moments: Moments | None = None
    also: dict[str, Any] = {}
    published: dict[str, dict[str, tuple[float, ...]]] = {}
    metrics: tuple[str, ...] = ("auc", "gauc")
    plot: dict[str, str] = {}
    set: dict[str, Any] = {}
    columns: dict[str, Column]

    def path(self, seed: int, part: str) -> str:
        """The data set of a seed."""
        return self.data.format(seed=seed, set=part)

    def tested(self, part: str) -> tuple[str, ...]:
        """The domains that are measured: those with rows in the split that is."""
        schema = self.first(part)
        rows = next((schema.rows[split] for split in ("test", "val") if split in schema.rows), {})
        return tuple(domain for domain in schema.domains if rows.get(domain) or not rows)

    def first(self, part: str) -> Schema:
        """The schema of the first seed's data set."""
        return read_schema(self.path(self.seeds[0], part))


def run_name(title: str, seed: int, *, part: str = "", domain: str = "") -> str:
    """A run: its set, its column's title, the domain, if it sees one alone, and the seed."""
    plain = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    part = re.sub(r"[^A-Za-z0-9_.]+", "-", part)
    return "-".join(filter(None, (part, plain, domain, f"seed{seed}")))


def gather(study: Study, runs: Path, *, part: str, metric: str, file: str = "metrics.json") -> dict[str, Values]:
    """Column title → the metric by seed and domain."""
    domains = study.tested(part)

    def value(title: str, seed: int, domain: str) -> float:
        name = run_name(title, seed, part=part, domain=domain if study.columns[title].single else "")
        return json.loads((runs / name / file).read_text())["test"][domain][metric]

    return {
        title: np.array([[value(title, seed, domain) for domain in domains] for seed in study.seeds])
        for title in study.columns
    }


def table(columns: dict[str, Values], domains: tuple[str, ...]) -> list[str]:
    """Markdown: a row a domain and their mean, `mean ± standard deviation` over seeds."""
    lines = ["", f"| domain | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for index, domain in enumerate((*domains, "macro")):
        seeds = [v[:, index] if index < len(domains) else v.mean(1) for v in columns.values()]
        lines.append(f"| {domain} | {' | '.join(map(_cell, seeds))} |")
    return [*lines, ""]


def published(columns: dict[str, tuple[float, ...]], domains: tuple[str, ...]) -> list[str]:
    """Markdown: what a paper says of the columns, and the mean of that over domains."""
    lines = ["Published:", "", f"| domain | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for index, domain in enumerate((*domains, "macro")):
        values = (v[index] if index < len(domains) else sum(v) / len(v) for v in columns.values())
        lines.append(f"| {domain} | {' | '.join(f'{value:.4f}' for value in values)} |")
    return [*lines, ""]


def chance(study: Study, runs: Path, *, part: str, metric: str, file: str = "metrics.json") -> list[str]:
    """What a random order of the same candidates reaches, and the generator's own truth, where these were measured."""
    name = run_name(study.subject, study.seeds[0], part=part)
    test = json.loads((runs / name / file).read_text())["test"] if (runs / name / file).exists() else {}
    lines: list[str] = []
    for name, key in (("A random order", f"random/{metric}"), ("The best possible", f"bayes_{metric}")):
        own = {domain: found.get(key) for domain, found in test.items() if domain != "pooled"}
        levels = [f"{domain} {level:.4f}" for domain, level in own.items() if level is not None]
        lines += [f"{name}: {', '.join(levels)}.", ""] if levels else []
    return lines


def verdicts(columns: dict[str, Values], subject: str, *, domains: tuple[str, ...], metric: str) -> list[str]:
    """A line a column: the subject's gain in the macro mean, seed by seed, and in how many domains it is ahead.

    From three seeds on with the p of a paired t-test, whether the gain is 0. An error gains by falling.
    """
    lines = []
    for title, values in columns.items():
        if title == subject:
            continue
        gain = (values - columns[subject]) if metric in ERRORS else (columns[subject] - values)
        macro, behind = gain.mean(1), [name for name, mean in zip(domains, gain.mean(0), strict=True) if mean <= 0]
        span = f"{macro.mean():+.4f} (by seed {macro.min():+.4f} to {macro.max():+.4f})"
        span += f", p {_p_value(macro):.2g}" if len(macro) > 2 else ""
        ahead = f"{len(domains) - len(behind)} of {len(domains)}" + (f", not in {', '.join(behind)}" if behind else "")
        lines.append(f"- {subject} against {title}: {span}; ahead in {ahead}")
    return lines


def _p_value(gain: NDArray[np.float64]) -> float:
    """Of the hypothesis that a gain, over seeds, is 0 on average."""
    return float(np.asarray(ttest_1samp(gain, 0))[1])


def intervals(study: Study, runs: Path, *, part: str, metric: str) -> list[str]:
    """Markdown: each column's gain over the baseline, its interval over users, and the verdict; a row a domain."""
    if not study.baseline:
        return []
    paths = {title: [str(runs / run_name(title, seed, part=part)) for seed in study.seeds] for title in study.columns}
    others = [title for title in study.columns if title != study.baseline]
    found = {
        title: gains(paths[title], paths[study.baseline], metric=metric, same_users="{seed}" not in study.data)
        for title in others
    }
    lines = [f"Gain over {study.baseline} in {metric}, and its 95 % interval (users drawn with replacement):", ""]
    lines += [f"| domain | {' | '.join(others)} |", f"|---|{'---|' * len(others)}"]
    for domain in study.tested(part):
        cells = [found[title][domain] for title in others]
        texts = [f"{cell.difference:+.4f} [{cell.low:+.4f}, {cell.high:+.4f}] {cell.verdict}" for cell in cells]
        lines.append(f"| {domain} | {' | '.join(texts)} |")
    return [*lines, ""]


def on_the_way(study: Study, runs: Path, *, part: str, metric: str) -> list[str]:
    """Markdown: the metric at each moment of the columns that have any, mean ± standard deviation over seeds."""
    if not study.moments:
        return []
    found: dict[str, list[dict[str, Any]]] = {}
    for title in study.columns:
        results = [_result(runs, title, seed, part=part)[study.moments.of] for seed in study.seeds]
        found |= {title: results} if results[0] else {}
    whose = "" if study.moments.domain == "macro" else f" of {study.moments.domain}"
    lines = [f"{metric}{whose}, {study.moments.of} each:", "", f"| | {' | '.join(found)} |"]
    lines.append(f"|---|{'---:|' * len(found)}")
    for moment in next(iter(found.values()))[0]:
        values = [[result[moment][study.moments.domain][metric] for result in results] for results in found.values()]
        lines.append(f"| {moment} | {' | '.join(map(_cell, values))} |")
    return [*lines, ""]


def seconds(study: Study, runs: Path, *, part: str) -> list[str]:
    """Markdown: how long a period took to learn, the mean over periods; `mean ± standard deviation` over seeds."""
    cells: list[str] = []
    for title in study.columns:
        lanes = [_result(runs, title, seed, part=part)["lanes"]["main"]["stages"] for seed in study.seeds]
        own = [{name: took for name, took in stages.items() if name.startswith("period-")} for stages in lanes]
        counts = [len({name[:11] for name in stages}) for stages in own]
        cells.append(_cell([sum(stages.values()) / max(n, 1) for stages, n in zip(own, counts, strict=True)], digits=2))
    head = ["Seconds of training a period:", "", f"| {' | '.join(study.columns)} |"]
    return [*head, f"|{'---:|' * len(cells)}", f"| {' | '.join(cells)} |", ""]


def _result(runs: Path, title: str, seed: int, *, part: str, file: str = "metrics.json") -> dict[str, Any]:
    return json.loads((runs / run_name(title, seed, part=part) / file).read_text())


def _cell(values: Iterable[float], digits: int = 4) -> str:
    v = np.array(list(values))
    return f"{v.mean():.{digits}f} ± {v.std(ddof=1) if len(v) > 1 else 0:.{digits}f}"


def report(study: Study, runs: Path, *, part: str) -> list[str]:
    """The tables and verdicts of a set, by metric."""
    schema = study.first(part)
    domains = study.tested(part)
    lines: list[str] = [f"# {study.path(study.seeds[0], part)}", ""] if part else []
    counts = {domain: [rows.get(domain, 0) for rows in schema.rows.values()] for domain in schema.domains}
    sizes = [f"{domain} {' / '.join(f'{rows:,}' for rows in own)}" for domain, own in counts.items()]
    lines += [f"Rows ({' / '.join(_SPLITS[split] for split in schema.rows)}): {'; '.join(sizes)}.", ""]
    for metric in study.metrics:
        columns = gather(study, runs, part=part, metric=metric)
        lines += [f"## {metric}", *table(columns, domains), *chance(study, runs, part=part, metric=metric)]
        lines += [*verdicts(columns, study.subject, domains=domains, metric=metric), ""]
        if part in study.published and metric == study.metrics[0]:
            lines += published(study.published[part], domains)
        if study.also and metric in _result(runs, study.subject, study.seeds[0], part=part, file=ALSO)["test"]["macro"]:
            lines += [f"### {metric}, with {', '.join(f'{key}: {value}' for key, value in study.also.items())}"]
            lines += table(gather(study, runs, part=part, metric=metric, file=ALSO), domains)
            lines += [*chance(study, runs, part=part, metric=metric, file=ALSO), ""]
        lines += intervals(study, runs, part=part, metric=metric)
        lines += on_the_way(study, runs, part=part, metric=metric)
    if study.moments and study.moments.of == "before":
        lines += seconds(study, runs, part=part)
    first = json.loads((runs / run_name(study.subject, study.seeds[0], part=part) / "metrics.json").read_text())["test"]
    if "bayes_auc" not in first["macro"]:
        return lines
    auc, best = (gather(study, runs, part=part, metric=metric) for metric in ("auc", "bayes_auc"))
    way = {title: (auc[title] - 0.5) / (best[title] - 0.5) for title in study.columns}
    lowest = ", ".join(f"{title} {values.min():.3f}" for title, values in way.items())
    lines += ["## Share of the way from AUC 0.5 to the best possible", *table(way, domains)]
    return [*lines, f"Lowest of any domain and seed: {lowest}.", ""]

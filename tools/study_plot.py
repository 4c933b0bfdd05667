"""Drawings: a metric by a setting that a study sweeps."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot
from study_report import Study, gather

mpl.use("svg")
mpl.rcParams.update({"svg.hashsalt": "mdr", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})


def sweep(study: Study, runs: Path, out: str) -> None:
    """Draw the study's first metric by the setting it sweeps, a line a domain and the mean over domains, over seeds."""
    ((name, setting),) = study.plot.items()
    metric, part = study.metrics[0], study.sets[0]
    columns = gather(study, runs, part=part, metric=metric)
    place = [float(study.columns[title].set[setting]) for title in columns]
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for index, domain in enumerate(study.tested(part)):
        axes.plot(
            place, [values[:, index].mean() for values in columns.values()], marker=".", linewidth=1, label=domain
        )
    macro = [values.mean(1) for values in columns.values()]
    spread = [seeds.std(ddof=1) if len(seeds) > 1 else 0.0 for seeds in macro]
    mean = [seeds.mean() for seeds in macro]
    axes.errorbar(place, mean, yerr=spread, color="black", linewidth=2, marker="o", capsize=3, label="mean")
    axes.set(xlabel=name, ylabel=f"{metric}, mean over seeds", xticks=place)
    axes.legend(frameon=False, bbox_to_anchor=(1, 1), loc="upper left")
    write(figure, out)


def write(figure: pyplot.Figure, out: str) -> None:
    """Write a drawing as SVG, the same bytes for the same numbers."""
    figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)

"""Draw how a balanced run went: the losses' weights, the norms of their gradients and the losses, step by step.

    tools/plot_weights.py runs/ciao-adc weights.svg [--lane main]

The run is one whose update rule is GradNorm, as ADC's. Each line is the mean over 1 % of the steps.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib import pyplot
from numpy.typing import NDArray
from study_plot import write

from mdr_dist.checkpoint.lanes import lane_folder


def told(run: Path, lane: str) -> dict[str, NDArray[np.float64]]:
    """Name → what the lane told of it at each step of its last stage that told weights; `SystemExit` if none did."""
    lines = (Path(lane_folder(str(run), lane)) / "events.jsonl").read_text().splitlines()
    steps = [event for event in map(json.loads, lines) if event["kind"] == "step"]
    steps = [event for event in steps if any(name.startswith("weight/") for name in event["losses"])]
    if not steps:
        raise SystemExit(f"{run}: no step of lane {lane} told the weight of a loss; its update rule is not GradNorm")
    names = sorted(steps[-1]["losses"])
    return {name: np.array([event["losses"][name] for event in steps]) for name in names}


def draw(found: dict[str, NDArray[np.float64]], out: str) -> None:
    """Three drawings side by side, a line a loss."""
    losses = [name.removeprefix("weight/") for name in found if name.startswith("weight/")]
    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.6))
    kinds = {"weight": "weight/", "norm of the weighted gradient": "norm/", "loss": ""}
    for axis, (title, prefix) in zip(axes, kinds.items(), strict=True):
        for name in losses:
            values = found[prefix + name]
            pieces = np.array_split(values, min(100, len(values)))
            places = np.cumsum([len(piece) for piece in pieces])
            axis.plot(places, [piece.mean() for piece in pieces], linewidth=1.2, label=name.rpartition("/")[2])
        axis.set(title=title, xlabel="told step")
    axes[1].set_yscale("log")
    axes[2].legend(frameon=False, bbox_to_anchor=(1, 1), loc="upper left")
    write(figure, out)


def main() -> None:
    """Read the run and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out")
    parser.add_argument("--lane", default="main")
    args = parser.parse_args()
    draw(told(args.run, args.lane), args.out)
    print(args.out)


if __name__ == "__main__":
    main()

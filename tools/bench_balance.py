"""How balancing by gradient norms evens out two losses of which one is planted 100 times the other.

    tools/bench_balance.py [--steps 12000] [--out tools/results/balance.md]

Two regressions share one matrix, half of whose columns serves each. A loss's relative rate r is the loss over the mean
of both: 1 for each once they are even. Drawn beside the table, with the same name and .svg.
"""

from __future__ import annotations

import datetime

import torch
from bench_file import arguments, commit, show
from matplotlib import pyplot
from study_plot import write

from mdr_dist.rule import GradNorm
from mdr_dist.train.update import backward, settle

SCALE, GAMMAS = 100.0, (0.0, 0.5, 1.0, 2.0, 3.0)
Rates = list[tuple[float, float]]


def train(asymmetry: float, *, steps: int) -> tuple[Rates, list[float]]:
    """r of both losses at each step, and the weights at the end."""
    torch.manual_seed(0)
    x = torch.randn(64, 8)
    y = x @ torch.randn(8, 8)
    shared, trained = torch.zeros(8, 8, requires_grad=True), torch.ones(2, requires_grad=True)
    rule = GradNorm(balanced=("a", "b"), shared=lambda: shared, trained=lambda: trained, asymmetry=asymmetry)
    optimizers = torch.optim.SGD([shared], lr=5e-5), torch.optim.Adam([trained], lr=0.025)
    rates: Rates = []
    for _ in range(steps):
        miss = (x @ shared - y).square().mean(0)
        losses = {"a": SCALE * miss[:4].mean(), "b": miss[4:].mean()}
        mean = (losses["a"].item() + losses["b"].item()) / 2
        rates.append((losses["a"].item() / mean, losses["b"].item() / mean))
        backward(rule, losses, {})
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        settle(rule)
    return rates, trained.tolist()


def main() -> None:
    """Train with every gamma, draw and tell."""
    args = arguments(__doc__, {"steps": 12000})
    found = {gamma: train(gamma, steps=args.steps) for gamma in GAMMAS}
    lines = [
        "# Balanced losses",
        "",
        f"    tools/bench_balance.py --steps {args.steps} --out tools/results/balance.md",
        "",
        f"{datetime.date.today()}, commit {commit()}. Two losses, the first planted {SCALE:.0f} times the other.",
        "r is a loss over the mean of both. The rule evens out gradients and leans on losses: with gradients of one",
        "norm, a loss on the larger scale still falls faster. So r comes nearer to 1 as gamma grows, and stays off it.",
        "",
        "| gamma | r of the first | of the second | weight of the first | of the second |",
        "|---:|---:|---:|---:|---:|",
    ]
    for gamma, (rates, weights) in found.items():
        lines.append(f"| {gamma} | {' | '.join(f'{value:.3f}' for value in (*rates[-1], *weights))} |")
    if args.out:
        figure, axes = pyplot.subplots(figsize=(7, 4))
        for gamma, (rates, _) in found.items():
            for index, style in enumerate(("-", "--")):
                label = f"gamma {gamma}" if index == 0 else None
                color = f"C{GAMMAS.index(gamma)}"
                axes.plot([rate[index] for rate in rates], style, color=color, linewidth=1.2, label=label)
        axes.set(xlabel="step", ylabel="r of the loss planted 100 times (-) and of the other (--)")
        axes.legend(frameon=False)
        write(figure, str(args.out.with_suffix(".svg")))
        lines += ["", f"![Relative rates by step]({args.out.stem}.svg)"]
    show("\n".join(lines) + "\n", args.out)


if __name__ == "__main__":
    main()

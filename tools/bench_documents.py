"""What it saves CATN to read every document of a step once, and every word's vector once.

    tools/bench_documents.py [--users 4000] [--width 500] [--batch 256] [--steps 4] [--out tools/results/documents.md]

A step is forward and backward over a batch of a synthetic data set, whose documents are as long as reviews make them,
up to `--width` words. The same parameters read them in three ways, which are checked to give the same ratings. Rounds
take turns, so that the machine's noise falls on all alike.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import platform
import statistics
import tempfile
import time
from typing import cast

import torch
from bench_file import arguments, commit, show
from torch import Tensor
from torch.nn import functional

from mdr_dist import catalog
from mdr_dist.batch import Batch, Ragged
from mdr_dist.config import DataConfig
from mdr_dist.data.source import Dataset, Source
from mdr_dist.data.synthetic import configure, synthesize
from mdr_dist.methods.catn import CATN, AspectReader
from mdr_dist.methods.text import documents_of
from mdr_dist.nn.text import Convolution
from mdr_dist.tables import PlainTables

ROUNDS = 3


class Padded(CATN):
    """Documents padded to the data set's width, and read by convolutions over all of that; once each, or once a row."""

    once = True

    def read(self, kind: str, x_WD: Tensor, batch: Batch) -> Tensor:
        """[B, M, K] as CATN's, of a batch of one domain."""
        documents = documents_of(batch)
        at_B = documents.at[kind]
        document, place = at_B.unique(return_inverse=True) if self.once else (at_B, torch.arange(len(at_B)))
        words_NL = padded(documents.words, document, width=self.text.width, empty=len(x_WD))
        there_NL1 = (words_NL < len(x_WD))[:, :, None]
        k = int(batch.domain[0])
        reader = cast(AspectReader, self.readers[k])
        own = self.aspects[k if kind == "item" else documents.other[0]]
        x_NLD = torch.cat([x_WD, torch.zeros_like(x_WD[:1])])[words_NL]
        c_NLF = convolved(reader.words, x_NLD) * there_NL1
        if kind == "auxiliary":
            c_NLF = convolved(reader.auxiliary, c_NLF) * there_NL1
        g_NLMK = (reader.project(c_NLF) * torch.sigmoid(reader.gate(c_NLF)) * there_NL1).unflatten(2, own.shape)
        logit_NLM = (g_NLMK * own).sum(3).masked_fill(~there_NL1, -1e30)
        return (logit_NLM.softmax(1)[..., None] * g_NLMK).sum(1)[place]


class Naive(Padded):
    """The same for each row anew."""

    once = False


def padded(words: Ragged, document: Tensor, *, width: int, empty: int) -> Tensor:
    """[N, L] the words of documents, `empty` beyond their ends."""
    place_NL = words.starts[document][:, None] + torch.arange(width)
    inside = torch.arange(width) < words.lengths[document][:, None]
    return torch.where(inside, words.values[place_NL.clamp(max=max(len(words.values) - 1, 0))], empty)


def convolved(layer: Convolution, x_NLD: Tensor) -> Tensor:
    """[N, L, F] by torch's convolution."""
    filters = len(layer.bias)
    weight = layer.weight.unflatten(0, (-1, filters)).permute(1, 2, 0)  # [F, D, C]
    out = functional.conv1d(x_NLD.transpose(1, 2), weight, layer.bias, padding=weight.shape[2] // 2)
    return torch.relu(out).transpose(1, 2)


WAYS = {
    "every document and word once a step (CATN here)": CATN,
    "every document once, padded": Padded,
    "every row's documents anew, padded (naive)": Naive,
}


def load(args: argparse.Namespace, folder: str) -> tuple[Dataset, list[Batch]]:
    """The data set and its first batches, by turns of either domain."""
    rows = 8 * args.users
    sizes = {"users": args.users, "interactions": [rows, rows], "document": args.width, "length": 60}
    synthesize(f"{folder}/reviews", configure("reviews", tuple(f"{name}={value}" for name, value in sizes.items())))
    dataset = Dataset.open(f"{folder}/reviews")
    method = catalog.build({"name": "catn"}, dataset.schema, seed=0)
    data = DataConfig(path=dataset.path, batch=args.batch)
    source = Source(dataset, data, seed=0, extras=method.extras)
    (stage,) = method.stages()
    return dataset, list(itertools.islice(source.batches(stage.data, stage=stage.name, epoch=0), args.steps))


def timed(dataset: Dataset, batches: list[Batch]) -> dict[str, list[float]]:
    """Seconds of all steps in each round, by way."""
    methods = {}
    for name, way in WAYS.items():
        torch.manual_seed(0)
        methods[name] = way(way.Config(), dataset.schema)
        methods[name].load_state_dict(next(iter(methods.values())).state_dict())
    tables = PlainTables(next(iter(methods.values())).tables())
    scores = [method.eval().score(tables(batches[0]), batches[0]).detach() for method in methods.values()]
    for other in scores[1:]:
        torch.testing.assert_close(other, scores[0], rtol=1e-3, atol=1e-4)
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _, (name, method) in itertools.product(range(ROUNDS + 1), methods.items()):
        method.train()
        start = time.perf_counter()
        for batch in batches:
            method.losses(tables(batch), batch)["square"].backward()
            method.zero_grad(set_to_none=True)
        seconds[name].append(time.perf_counter() - start)
    return {name: taken[1:] for name, taken in seconds.items()}  # the first round warms up


def report(args: argparse.Namespace, batches: list[Batch], seconds: dict[str, list[float]]) -> str:
    """The table, under the command that makes it."""
    read = sum(len(batch.documents.words.lengths) for batch in batches if batch.documents)
    words = sum(len(batch.documents.words.values) for batch in batches if batch.documents)
    asked = sum(3 * int(batch.weight.sum()) for batch in batches)
    lines = [
        "# Documents",
        "",
        f"    tools/bench_documents.py --users {args.users} --width {args.width} --batch {args.batch} "
        f"--steps {args.steps} --out tools/results/documents.md",
        "",
        f"{datetime.date.today()}, commit {commit()}, torch {torch.__version__}, {platform.machine()}, 1 thread. "
        f"Median of {ROUNDS} rounds in turn. A step reads the documents of {args.batch} rows, three a row; of "
        f"{asked:,} asked for {read:,} are distinct, with {words / max(read, 1):.0f} words on average.",
        "",
        "| how | documents asked for, per s | least | most | ratio |",
        "|---|---:|---:|---:|---:|",
    ]
    slowest = statistics.median(seconds[list(WAYS)[-1]])
    for name, taken in seconds.items():
        rates = [asked / second for second in taken]
        ratio = slowest / statistics.median(taken)
        lines.append(
            f"| {name} | {statistics.median(rates):,.0f} | {min(rates):,.0f} | {max(rates):,.0f} | {ratio:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Make the data set, time the ways and tell."""
    args = arguments(__doc__, {"users": 4000, "width": 500, "batch": 256, "steps": 4})
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        dataset, batches = load(args, folder)
        show(report(args, batches, timed(dataset, batches)), args.out)


if __name__ == "__main__":
    main()

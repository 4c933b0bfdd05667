"""Train a study's columns over its seeds and write their table.

    tools/study.py jobs/ciao/study.yaml [--runs runs/ciao/study] [--parallel 2]

writes `RESULTS.md` beside the study (`study-x.yaml`: `RESULTS-x.md`). A run that is finished is not trained again. A
study is a YAML file:

    make: prepare jobs/ciao/prepare.yaml data/ciao --raw $MDR_DATA/ciao   # an mdr command, run if `data` is missing
    data: data/ciao                    # `{seed}` in `make` and `data` gives every seed a data set of its own
    sets: [""]                         # optional: a part of the report for each, which `{set}` in them stands for
    seeds: [0, 1, 2, 3, 4]
    metrics: [auc, gauc]               # a table each
    subject: Crocodile                 # the column that the others are compared with
    baseline: SMF                      # optional: each column's gain over this one, user by user
    also: {eval.candidates: domain}    # optional: a second table by metric, the same runs measured with these settings,
                                       # of the metrics that there are then
    published: {"": {Crocodile: [0.7]}}  # optional: what a paper says, by set and column, a number a domain, of the
                                       # first metric
    moments: {of: before}              # optional: a table by period `before` which, or stage `after` which, it was
                                       # measured; with `domain: a` of that domain, else of the mean over domains
    plot: {gain: method.asymmetry}     # optional: the first metric by this setting of the columns, drawn to
                                       # `RESULTS….svg`; the key is the axis's name
    set: {method.dim: 8}               # optional: laid over the settings of every column
    columns:                           # title → job beside the study, settings laid over it
      Shared Bottom, one domain: {job: shared_bottom.yaml, single: true}    # trained once a domain, on its rows alone
      Crocodile: {job: crocodile.yaml, set: {method.alpha: 1.0e-4}}
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from bench_file import commit
from study_plot import sweep
from study_report import ALSO, Study, report, run_name

from mdr_dist.config import load


def commands(study: Study, folder: Path, *, part: str) -> Iterator[tuple[str, list[str]]]:
    """Every run's name and the arguments of `mdr` that train it."""
    for title, column in study.columns.items():
        for seed in study.seeds:
            for domain in study.first(part).domains if column.single else ("",):
                name, data = run_name(title, seed, part=part, domain=domain), study.path(seed, part)
                values = {
                    "name": name,
                    "data.path": data,
                    "train.seed": seed,
                    "train.threads": 1,
                    **study.set,
                    **column.set,
                }
                values |= {"data.domains": [domain]} if domain else {}
                settings = [text for key, value in values.items() for text in ("--set", f"{key}={json.dumps(value)}")]
                yield name, ["train", str(folder / column.job), "--quiet", *settings]


def mdr(arguments: list[str]) -> str:
    """Run `mdr` and return what it printed; that is shown only if it fails."""
    done = subprocess.run([sys.executable, "-m", "mdr_dist", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"mdr {shlex.join(arguments)}\n{done.stdout}{done.stderr}")
    return done.stdout


def _train(run: tuple[str, list[str]], *, runs: Path, also: list[str]) -> None:
    name, arguments = run
    if not (runs / name / "metrics.json").exists():
        mdr([*arguments, "--runs", str(runs)])
        print(f"trained {name}", flush=True)
    if also and not (runs / name / ALSO).exists():
        found = mdr(["evaluate", str(runs / name), "--json", *also])
        (runs / name / ALSO).write_text(json.dumps({"test": json.loads(found)}))


def prepare(study: Study) -> None:
    """Make the data sets that are missing."""
    os.environ.setdefault("MDR_DATA", "../shared/data")
    for seed, part in itertools.product(study.seeds, study.sets):
        if not Path(study.path(seed, part), "schema.json").exists():
            mdr(shlex.split(os.path.expandvars(study.make.format(seed=seed, set=part))))


def main() -> None:
    """Train what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--parallel", type=int, default=2)
    args = parser.parse_args()
    study = load(Study, str(args.study))
    folder, runs = args.study.parent, args.runs or Path("runs") / args.study.parent.name / args.study.stem
    prepare(study)
    jobs = [job for part in study.sets for job in commands(study, folder, part=part)]
    with ThreadPoolExecutor(args.parallel) as pool:
        also = [text for key, value in study.also.items() for text in ("--set", f"{key}={json.dumps(value)}")]
        list(pool.map(partial(_train, runs=runs, also=also), jobs))
    measured = "test split, at the end or, with patience, at the best state in validation"
    if study.moments and study.moments.of == "before":
        measured = "the mean over the periods that a model was measured on before it learnt them"
    head = [
        f"`python tools/study.py {args.study}`",
        "",
        f"Made on {datetime.date.today()} at commit {commit()}, one CPU thread a run; seeds "
        f"{', '.join(map(str, study.seeds))}; mean ± standard deviation over seeds; "
        f"{measured}.{' Rows are those of the first seed.' * ('{seed}' in study.data)}",
        "",
    ]
    out = folder / args.study.name.replace("study", "RESULTS").replace(".yaml", ".md")
    if study.plot:
        sweep(study, runs, str(out.with_suffix(".svg")))
        head += [f"![{study.metrics[0]} by {next(iter(study.plot))}]({out.stem}.svg)", ""]
    out.write_text("\n".join(head + [line for part in study.sets for line in report(study, runs, part=part)]))
    print(out.read_text())


if __name__ == "__main__":
    main()

"""The work that `chaos.py` breaks: small jobs and a log to prepare, what they come to, and whether checkpoints load."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from chaos_trials import Trial
from safetensors.torch import load_file
from seaweedfs import Store, make_bucket, serving
from storms import front

from mdr_dist import storage
from mdr_dist.checkpoint.seal import verify
from mdr_dist.data.layout import read_shards
from mdr_dist.data.synthetic import configure, synthesize
from mdr_dist.tables.saved import SavedTables

DATA = {"sml": ("drift", ("users=400", "items=400", "rows=2000", "periods=4", "domains=2", "user_spread=0.0"))}
BUCKET = "chaos"
USUAL = ("tiny", ("domains=2",))
SETTINGS: dict[str, dict[str, Any]] = {
    "crocodile": {"dim": 16, "experts": [32], "towers": [16]},
    "cat_art": {"dim": 8, "patience": 0, "cat_patience": 0},
    "adc": {"dim": 8, "patience": 0},
    "sml": {"dim": 8},
    "smf": {"dim": 8, "patience": 0},
}
COLUMNS = {"user": "text", "item": "text", "shop": "text", "rating": "float"}
RECIPE = {
    "log": [{"files": ["log.csv"], "format": "csv", "columns": COLUMNS}],
    "domain": {"column": "shop"},
    "labels": {"label": "rating >= 3"},
    "features": [{"name": "user"}, {"name": "item", "of": "item"}],
    "split": {"random": {"val": 0.1, "test": 0.2}},
}


class Work:
    """Data sets, jobs and results below a folder; some of them on an object store, which is started if it is asked for.

    To be used in `with`: the store ends with it.
    """

    def __init__(self, root: Path) -> None:
        self.storm = root / "storm"
        self._root = root
        self._expected: dict[str, str] = {}
        self._open = contextlib.ExitStack()
        (root / "jobs" / "log").mkdir(parents=True)
        (root / "jobs" / "log" / "prepare.yaml").write_text(yaml.safe_dump(RECIPE))
        rows = "".join(f"u{n * 7 % 997},i{n * 13 % 313},{'ab'[n % 2]},{n % 5 + 1}\n" for n in range(20_000))
        (root / "log.csv").write_text("user,item,shop,rating\n" + rows)

    def __enter__(self) -> Work:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @functools.cached_property
    def front(self) -> Store:
        """The store as storms befall it; this process asks the store itself, and sees through them."""
        store = self._open.enter_context(serving(self._root / "store"))
        os.environ |= store.environment
        make_bucket(BUCKET)
        return self._open.enter_context(front(store, self.storm))

    def environment(self, trial: Trial) -> dict[str, str]:
        """Of the trial's command, beside this process's own."""
        return self.front.environment if trial.store == "S3" else {}

    def dataset(self, method: str, *, store: str = "disk") -> str:
        """The data set that a method trains on."""
        preset, settings = DATA.get(method, USUAL)
        path = f"s3://{BUCKET}/{preset}" if store == "S3" else str(self._root / preset)
        if not storage.exists(f"{path}/schema.json"):
            synthesize(path, configure(preset, settings))
        return path

    def shard(self, method: str) -> Path:
        """A shard that the method reads in training."""
        path = self.dataset(method)
        return Path(path) / next(shard.path for shard in read_shards(path) if shard.split == "train")

    def command(self, trial: Trial, folder: Path) -> list[str]:
        """The command that a trial gives, again and again."""
        mdr, there = [sys.executable, "-m", "mdr_dist"], _there(trial, folder)
        if trial.moment == "prepare":
            recipe = str(self._root / "jobs" / "log" / "prepare.yaml")
            return [*mdr, "prepare", recipe, f"{there}/made", "--raw", str(self._root)]
        job = folder / "job.yaml"
        job.write_text(yaml.safe_dump(self._job(trial)))
        return [*mdr, "train", str(job), "--runs", f"{there}/runs", "--quiet", "--workers", str(trial.workers)]

    def fetch(self, trial: Trial, folder: Path) -> None:
        """Copy what the command has made so far from the store, if it is there."""
        if trial.store == "S3":
            shutil.rmtree(folder / "runs", ignore_errors=True)
            shutil.rmtree(folder / "made", ignore_errors=True)
            there = _there(trial, folder)
            for name in storage.files(there):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(storage.read_bytes(f"{there}/{name}"))

    def expected(self, trial: Trial) -> str:
        """What an undisturbed run comes to."""
        if trial.key not in self._expected:
            self._expected[trial.key] = self._undisturbed(trial)
        return self._expected[trial.key]

    def _undisturbed(self, trial: Trial) -> str:
        workers = 0 if trial.workers == 1 else trial.workers
        folder, trial = self._root / f"calm-{trial.key}", replace(trial, store="disk", workers=workers)
        folder.mkdir()
        subprocess.run(self.command(trial, folder), check=True, capture_output=True, timeout=300)
        return digest(trial, folder)

    def _job(self, trial: Trial) -> dict[str, Any]:
        return {
            "name": "chaos",
            "data": {"path": self.dataset(trial.method, store=trial.store), "batch": 64},
            "method": {"name": trial.method, **SETTINGS[trial.method]},
            "tables": {"lr": 0.05, "placement": trial.placement},
            "eval": {"ks": [5]},
            "train": {"epochs": 2, "threads": 1, "log_steps": 1, "save_steps": 20, "export": "safetensors"},
            "launch": {"max_failures": 3},
        }


def _there(trial: Trial, folder: Path) -> str:
    """Where the trial's command writes."""
    return f"s3://{BUCKET}/{folder.name}" if trial.store == "S3" else str(folder)


def digest(trial: Trial, folder: Path) -> str:
    """A hash of all that a command left that users read: a data set's files, or a run's export and metrics."""
    found = hashlib.sha256()
    if trial.moment == "prepare":
        for path in sorted(path for path in (folder / "made").rglob("*") if path.is_file()):
            if path.name != "report.json":  # which tells how long it took
                found.update(str(path.relative_to(folder)).encode() + path.read_bytes())
        return found.hexdigest()
    run = folder / "runs" / "chaos"
    found.update(json.dumps(json.loads((run / "metrics.json").read_text())["test"], sort_keys=True).encode())
    for path in sorted(run.glob("export/*/**/*.safetensors")):
        found.update(str(path.relative_to(run)).encode() + path.read_bytes())
    return found.hexdigest()


def sound(folder: Path) -> str:
    """What is wrong with the checkpoints that say they are done; nothing if all of them load."""
    for done in folder.glob("runs/*/lanes/*/checkpoints/*/DONE"):
        try:
            verify(str(done.parent))
            SavedTables(str(done.parent)).read_metadata()
            load_file(done.parent / "dense.safetensors")
            json.loads((done.parent / "progress.json").read_text())
        except Exception as error:
            return f"{done.parent.name} says it is done and does not load: {error!r}"
    return ""


def _times(path: Path) -> list[float]:
    return [json.loads(line)["time"] for line in path.read_text().splitlines() if '"kind": "start"' in line]


def started_after(folder: Path, moment: float) -> float | None:
    """Seconds from a moment to the next time a lane is started again; `None` if none was."""
    later = [at for path in folder.glob("runs/*/lanes/*/events.jsonl") for at in _times(path)[1:] if at > moment]
    return min(later) - moment if later else None

"""What the methods are for, at a small size: jobs/synthetic/RESULTS.md has the whole of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdr_dist import storage
from mdr_dist.config import load_job
from mdr_dist.data.synthetic import configure, synthesize
from mdr_dist.launch.process import train_here

pytestmark = pytest.mark.slow
JOBS = Path(__file__).parents[2] / "jobs/synthetic"


def test_crocodile_is_ahead_of_shared_bottom_in_every_domain(tmp_path: Path) -> None:
    """A quarter of the rows and of the epochs of the study's jobs."""
    dataset = str(tmp_path / "conflicting")
    synthesize(dataset, configure("conflicting", ("rows=150000", "seed=2")))
    settings = (f"data.path={dataset}", "train.epochs=4", "train.eval_epochs=0", "train.threads=1", "train.seed=2")
    results = {}
    for method in ("shared_bottom", "crocodile"):
        run, _ = train_here(load_job(str(JOBS / f"{method}.yaml"), settings), str(tmp_path))
        results[method] = storage.read_json(f"{run}/metrics.json")["test"]
    for domain, values in results["crocodile"].items():
        assert values["auc"] > results["shared_bottom"][domain]["auc"], domain
        assert (values["auc"] - 0.5) / (values["bayes_auc"] - 0.5) > 0.6, domain

"""What the methods are for, at a small size: jobs/synthetic and jobs/shared-specific have the whole of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdr_dist import storage
from mdr_dist.config import load_job
from mdr_dist.data.synthetic import configure, synthesize
from mdr_dist.launch.process import train_here

pytestmark = pytest.mark.slow
JOBS = Path(__file__).parents[2] / "jobs"


def test_crocodile_is_ahead_of_shared_bottom_in_every_domain(tmp_path: Path) -> None:
    """A quarter of the rows and of the epochs of the study's jobs."""
    dataset = str(tmp_path / "conflicting")
    synthesize(dataset, configure("conflicting", ("rows=150000", "seed=2")))
    settings = (f"data.path={dataset}", "train.epochs=4", "train.eval_epochs=0", "train.threads=1", "train.seed=2")
    results = {}
    for method in ("shared_bottom", "crocodile"):
        run, _ = train_here(load_job(str(JOBS / f"synthetic/{method}.yaml"), settings), str(tmp_path))
        results[method] = storage.read_json(f"{run}/metrics.json")["test"]
    for domain, values in results["crocodile"].items():
        assert values["auc"] > results["shared_bottom"][domain]["auc"], domain
        assert (values["auc"] - 0.5) / (values["bayes_auc"] - 0.5) > 0.6, domain


def test_cat_art_is_ahead_of_smf_in_every_domain_and_most_in_the_sparsest(tmp_path: Path) -> None:
    """A quarter of the study's users and items, a fifth of its rows."""
    dataset = str(tmp_path / "shared-specific")
    sizes = ("users=500", "items=[200,200,200,200]", "interactions=[16000,8000,4000,2000]")
    report = synthesize(dataset, configure("shared-specific", (*sizes, "user_zipf=0", "test=0.2")))
    settings = ("data.batch=256", "tables.lr=0.01", "method.patience=4", "train.threads=1", "eval.ks=[10]")
    ndcg = {}
    for method in ("smf", "cat_art"):
        job = load_job(str(JOBS / f"shared-specific/{method}.yaml"), (f"data.path={dataset}", *settings))
        run, _ = train_here(job, str(tmp_path))
        test = storage.read_json(f"{run}/metrics.json")["test"]
        ndcg[method] = {domain: test[domain]["ndcg@10"] for domain in report["domains"]}
    gain = {domain: value - ndcg["smf"][domain] for domain, value in ndcg["cat_art"].items()}
    assert min(gain.values()) > 0.005, ndcg
    assert max(gain, key=lambda domain: gain[domain]) == "sparsest"
    for domain, value in ndcg["cat_art"].items():
        assert 0.4 < value / report["domains"][domain]["bayes_ndcg@10"] < 1.05, domain

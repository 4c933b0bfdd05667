"""Every setting that a study switches on or off trains and is measured, on the small data set."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from mdr_dist.launch.process import group_of_one
from mdr_dist.train.run import outputs, plan_of
from support.contract import ROWS, contract_job
from support.jobs import train

# of CL4Rec, whatever its backbone
BACKBONE: list[dict[str, Any]] = [
    {"masking": "inference"},
    {"masking": "off"},
    {"specialize": False},
    {"mask": "soft", "train_masks": False, "annealing": "hat"},
]
ABLATIONS: list[tuple[str, dict[str, Any]]] = [
    ("crocodile", {"sets": 1, "alpha": 0.0}),
    *(("crocodile", {"gate": gate}) for gate in ("me", "eg", "pg")),
    ("adc", {"balance": False, "rating": "label"}),
    ("adc", {"hidden": 1, "renormalise": False, "align": 0.0, "asymmetry": 0.0}),
    ("cat_art", {"knowledge": "global", "contrastive": 0.0}),
    ("cat_art", {"knowledge": "global"}),
    ("cat_art", {"knowledge": "sources"}),
    ("cat_art", {"knowledge": "sources", "transfer": "concat"}),
    ("cat_art", {"transfer": "concat", "fix_users": False}),
    ("cl4rec", {"mask": "soft", "train_masks": False}),
    ("cl4rec", {"masking": "inference"}),
    ("cl4rec", {"masking": "off"}),
    ("cl4rec", {"specialize": False}),
    ("emcdr", {"mapping": "linear"}),
    ("dfm", {"noise": 0.0, "ratings": 1, "rebuilt": 0.0, "l2": 0.0, "target": "books"}),
    ("r_dfm", {"told": 0.0}),
    ("cdlfm", {"alike": 0.0, "neighbours": 100, "linked": 100}),
    ("bias", {"user": False, "l2": 0.0}),
    ("cmf_rating", {"alpha": 1.0, "target": "books"}),
    ("sml", {"restart": "hat", "rounds": 2}),
    ("gru4rec", {"loss": "bpr_max"}),
    ("gru4rec", {"shared": False, "negatives": 2, "l2": 1e-3}),
    ("caser", {"dropout": 0.0, "l2": 0.0}),
    ("caser", {"length": 1, "negatives": 1}),
    ("cl4rec", {"annealing": "hat", "mask": "soft"}),
    ("cl4rec", {"order": ["d2", "d0"]}),
    *(("cl4rec-graph", change) for change in BACKBONE),
    *(("cl4rec-autoencoder", change) for change in BACKBONE),
    ("cl4rec-graph", {"neighbours": 0}),
    ("tado", {"backbone": "graph", "layers": [4], "neighbours": 3}),
    ("tado", {"backbone": "autoencoder", "inner": [], "pool": "sum", "catalogue": 7}),
]


def _names(part: object) -> str:
    return "-".join(map(str, part.values())) if isinstance(part, dict) else str(part)


@pytest.mark.parametrize(("method", "settings"), ABLATIONS, ids=_names)
def test_it_trains_and_is_measured(
    method: str, settings: dict[str, Any], datasets: dict[str, str], tmp_path: Path
) -> None:
    job = contract_job(method, datasets[method], rows=4 * ROWS[method], method=settings, train={"epochs": 1})
    with group_of_one():
        run = train(job, str(tmp_path))
    assert outputs(run, plan_of(job), job).step > 0  # every lane has a checkpoint
    macro = json.loads((Path(run) / "metrics.json").read_text())["test"]["macro"]
    assert macro and all(value is None or math.isfinite(value) for value in macro.values())

"""What `chaos.py` breaks, and how: trials drawn by a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

METHODS = ("adc", "cat_art", "crocodile", "smf", "sml")
MOMENTS = ("step", "save", "evaluation", "export")
FAULTS = ("kill", "kill driver", "stop driver", "full disk", "truncated shard", "S3 500s")
IN_PREPARE = ("kill", "stop driver", "full disk", "S3 500s")
ON_RAY = (*FAULTS, "kill raylet")
ON_S3 = ("kill", "kill driver", "kill raylet")  # every third of them, for what is left there half written
STORMS = (2.0, 40.0)  # seconds: one that retries outlast, one that ends an attempt
PLACEMENTS = ("auto", "table_wise", "row_wise")


@dataclass(frozen=True)
class Trial:
    """What is broken, and how."""

    number: int
    method: str
    placement: str
    workers: int
    moment: str
    fault: str
    after: int
    store: str
    storm: float

    @property
    def key(self) -> str:
        """Trials of one key have one result; one worker on Ray has that of this process."""
        return "prepare" if self.moment == "prepare" else f"{self.method}-{self.placement}-{max(1, self.workers)}"


def draw(count: int, seed: int) -> Iterator[Trial]:
    """The trials, every moment and fault in turn so that few trials meet all of them."""
    rng = random.Random(seed)  # noqa: S311 (no secret)
    for number in range(count):
        moment = (*MOMENTS, "rewrite", "prepare")[number % 6]
        workers = rng.choice((0, 0, 1, 2)) if moment != "prepare" else 0
        method = "sml" if moment == "rewrite" else rng.choice(METHODS)
        faults = IN_PREPARE if moment == "prepare" else ON_RAY if workers else FAULTS
        fault = faults[(number // 6) % len(faults)]
        after = 0 if moment in ("export", "prepare") else rng.randint(0, 20 if moment == "step" else 2)
        store = "S3" if fault == "S3 500s" or (fault in ON_S3 and rng.random() < 1 / 3) else "disk"
        placement, storm = rng.choice(PLACEMENTS), rng.choice(STORMS)
        yield Trial(number, method, placement, workers, moment, fault, after, store, storm)

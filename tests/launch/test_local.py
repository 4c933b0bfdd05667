"""What is refused before Ray Train starts; integration/test_ray.py has the rest."""

from __future__ import annotations

import pytest

from mdr_dist.errors import UserError
from mdr_dist.launch import local
from support.jobs import small_job


@pytest.mark.parametrize(
    ("launch", "says"),
    [
        ({"workers": 4}, ""),
        ({"workers": 5}, "--workers 5: they need 5 CPUs, the cluster has 4; ask for fewer workers or join more nodes"),
        ({"workers": 2, "cpus_per_worker": 2.5}, "--workers 2: they need 5 CPUs, the cluster has 4; "),
        ({"workers": 2, "gpus_per_worker": 1}, "--workers 2: they need 2 GPUs, the cluster has 0; "),
    ],
)
def test_more_workers_than_the_cluster_holds(launch: dict, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local.ray, "cluster_resources", lambda: {"CPU": 4.0, "memory": 1e9})
    job = small_job("shared_bottom", "data", launch=launch)
    if not says:
        local._check_fits(job)
        return
    with pytest.raises(UserError) as caught:
        local._check_fits(job)
    assert str(caught.value).startswith(says)

"""Every method, trained once for all tests of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mdr_dist.config import Job
from mdr_dist.launch.process import evaluate_run, group_of_one
from support.contract import contract_job
from support.jobs import train


@pytest.fixture(scope="session")
def asked(request: pytest.FixtureRequest) -> list[str]:
    """The methods that are tested in this session."""
    here = [
        item
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path.parent == Path(__file__).parent
    ]
    return sorted({str(item.callspec.params["method"]) for item in here if hasattr(item, "callspec")})


@pytest.fixture(scope="session")
def finished(
    asked: list[str], datasets: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Job, str]]:
    """Every method trained to the end in one process."""
    runs = str(tmp_path_factory.mktemp("finished"))
    jobs = {method: contract_job(method, datasets[method]) for method in asked}
    with group_of_one():
        return {method: (job, train(job, runs)) for method, job in jobs.items()}


@pytest.fixture(scope="session")
def measured(finished: dict[str, tuple[Job, str]]) -> Callable[[str], dict[str, Any]]:
    """What `mdr evaluate` says of that run, by method."""
    return functools.cache(lambda method: evaluate_run(finished[method][1]))

"""What tests of several folders share."""

from __future__ import annotations

import pytest

from mdr_dist.data.synthetic import configure, synthesize


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a synthetic data set of three domains and a few thousand rows; not to be changed."""
    path = str(tmp_path_factory.mktemp("data") / "tiny")
    synthesize(path, configure("tiny", ()))
    return path

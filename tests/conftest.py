"""What tests of several folders share."""

from __future__ import annotations

import contextlib
import gc
import re
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from seaweedfs import Store, make_bucket, serving

from mdr_dist import catalog, storage
from mdr_dist.data.synthetic import configure, synthesize
from support import object_store
from support.jobs import PERIODIC, RATING, READING, VARIANTS
from support.periods import write_periods
from support.ratings import write_ratings
from support.reviewed import write_reviews


def pytest_collection_finish() -> None:
    """What was imported stays: groups collect garbage when they end, and would look through all of it each time."""
    gc.freeze()


def pytest_unconfigure() -> None:
    """At the end it is freed as ever; extension modules count what is left."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A real S3 store on loopback, the same for all tests."""
    with serving(tmp_path_factory.mktemp("store")) as found:
        yield found


@pytest.fixture
def s3(store: Store, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty folder of that store, to which the environment leads; empty again afterwards."""
    object_store.use(monkeypatch, store.environment)
    url = "s3://tests/" + re.sub(r"\W+", "-", request.node.name)
    with contextlib.suppress(FileExistsError):
        make_bucket("tests")
    yield url
    object_store.use(monkeypatch, store.environment)
    storage.remove(url)
    object_store.ObjectStore.clear_instance_cache()


@pytest.fixture(params=["local", "memory", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty folder: on a disk, behind a URL, and on that store."""
    urls = {"local": lambda: str(tmp_path / "root"), "memory": lambda: "memory://storage-test/root"}
    url = urls.get(request.param, lambda: request.getfixturevalue("s3"))()
    storage.make_folder(url)
    yield url
    if request.param == "memory":
        fsspec.filesystem("memory").rm("/storage-test", recursive=True)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a synthetic data set of three domains and a few thousand rows; not to be changed."""
    path = str(tmp_path_factory.mktemp("data") / "tiny")
    synthesize(path, configure("tiny", ()))
    return path


@pytest.fixture(scope="session")
def periods(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a data set of two domains whose time is cut into four periods; not to be changed."""
    return write_periods(str(tmp_path_factory.mktemp("data") / "periods"))


@pytest.fixture(scope="session")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a data set of ratings in two domains, with users held out in the second; not to be changed."""
    return write_ratings(str(tmp_path_factory.mktemp("data") / "ratings"))


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a data set like `ratings` whose rows have reviews; not to be changed."""
    return write_reviews(str(tmp_path_factory.mktemp("data") / "reviews"))


@pytest.fixture(scope="session")
def datasets(dataset: str, periods: str, ratings: str, reviews: str) -> dict[str, str]:
    """Every method → the data set that it is tested on."""
    special = dict.fromkeys(PERIODIC, periods) | dict.fromkeys(RATING, ratings) | dict.fromkeys(READING, reviews)
    return dict.fromkeys([*catalog.INDEX, *VARIANTS], dataset) | special

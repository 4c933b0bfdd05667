"""The graph around a batch's rows, against sets written out from the rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from mdr_dist.batch import Batch, Extras
from mdr_dist.config import DataConfig, EvalConfig
from mdr_dist.data import neighbours as module
from mdr_dist.data.reader import Dataset
from mdr_dist.data.source import Source
from mdr_dist.eval.candidates import Candidates
from mdr_dist.stage import Slice
from support.retrieval import DOMAINS, KEY, Row
from support.retrieval import ITEMS as ROWS
from support.taken import NEW, taken, taken_rows, write_taken

Node = tuple[str, int]  # "user" and a key, or "item" and an id


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Row], Dataset]:
    rows = taken_rows()
    return rows, write_taken(str(tmp_path_factory.mktemp("taken") / "log"), rows)


def source_of(dataset: Dataset, *, hops: int, neighbours: int, rank: int = 0, world: int = 1) -> Source:
    data = DataConfig(path=dataset.path, batch=16, streams=4)
    extras = Extras(hops=hops, neighbours=neighbours)
    return Source(dataset, data, seed=3, rank=rank, world=world, extras=extras)


def edges(rows: list[Row], domains: tuple[str, ...] = DOMAINS) -> dict[Node, set[Node]]:
    """Every node's neighbours."""
    found: dict[Node, set[Node]] = defaultdict(set)
    for key, items in taken(rows, "train", domains).items():
        for item in items:
            found["user", key].add(("item", item))
            found["item", item].add(("user", key))
    return found


def named(code: int) -> Node:
    return ("item", code) if code < ROWS else ("user", code - ROWS - 1)


def drawn(batch: Batch) -> tuple[list[Node], dict[Node, list[Node]]]:
    """The nodes in order, and the neighbours of those that have theirs."""
    assert batch.graph
    nodes = [named(code) for code in batch.graph.codes.tolist()]
    parts = batch.graph.sources.split(batch.graph.starts.diff().tolist())
    return nodes, {nodes[at]: [nodes[place] for place in part] for at, part in enumerate(parts)}


@pytest.mark.parametrize("chunk", [7, 1 << 22])
@pytest.mark.parametrize("domains", [(0,), (1,), None])
@pytest.mark.parametrize("hops", [1, 3])
def test_all_neighbours_hop_by_hop(
    log: tuple[list[Row], Dataset], hops: int, domains: tuple[int, ...] | None, chunk: int,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "_CHUNK", chunk)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    rows, dataset = log
    names = DOMAINS if domains is None else tuple(DOMAINS[k] for k in domains)
    expected = edges(rows, names)
    slice_ = Slice(domains=domains, negatives=1)
    for batch in source_of(dataset, hops=hops, neighbours=0).batches(slice_, stage="s", epoch=0):
        assert batch.graph
        nodes, found = drawn(batch)
        near = {named(ROWS + 1 + key) for key in batch.user_key.tolist()}
        near |= {("item", item) for name in ("item", "negative_0") for item in batch.ids[name].tolist()}
        for hop in range(hops + 1):  # nodes stand in order of their distance, each once
            assert len(nodes) == len(set(nodes)) and set(nodes[: batch.graph.nodes[hop]]) == near
            assert batch.graph.edges[hop : hop + 1] == (() if hop == hops else (sum(len(found[n]) for n in near),))
            near = near.union(*(expected[node] for node in near))
        assert found == {node: sorted(expected[node], key=nodes_code) for node in nodes[: batch.graph.nodes[-2]]}
        for name, kind in (("user", "user"), ("item", "item"), ("negative_0", "item")):
            own = (batch.user_key if kind == "user" else batch.ids[name]).tolist()
            assert [nodes[place] for place in batch.graph.at[name]] == [(kind, each) for each in own]


def nodes_code(node: Node) -> int:
    return node[1]


def test_what_nodes_look_up(log: tuple[list[Row], Dataset]) -> None:
    """A node's row among those looked up is its id's; a user's id is the key by KEY, padding's 0."""
    for batch in source_of(log[1], hops=2, neighbours=2).batches(Slice(negatives=1), stage="s", epoch=0):
        assert batch.graph
        looked_up = [*batch.lists["user_nodes"].values.tolist(), *batch.lists["item_nodes"].values.tolist()]
        assert sorted(batch.graph.order.tolist()) == list(range(len(looked_up)))
        for (kind, number), at in zip(drawn(batch)[0], batch.graph.order.tolist(), strict=True):
            assert looked_up[at] == (number if kind == "item" else max(number, 0) // KEY)
            assert (at < len(batch.lists["user_nodes"].values)) == (kind == "user")


def test_as_many_neighbours_as_there_are_is_all(log: tuple[list[Row], Dataset]) -> None:
    degree = max(map(len, edges(log[0]).values()))
    whole, most = (
        list(source_of(log[1], hops=2, neighbours=n).batches(Slice(negatives=1), stage="s", epoch=0))
        for n in (0, degree)
    )
    for one, two in zip(whole, most, strict=True):
        assert drawn(one) == drawn(two)


def test_a_node_draws_the_same_in_every_process(log: tuple[list[Row], Dataset]) -> None:
    expected, slice_ = edges(log[0]), Slice(negatives=1)
    counts: Counter[tuple[Node, ...]] = Counter()
    steps = 0
    for epoch in range(60):
        asked = ((0, 1), (0, 2), (1, 2)) if epoch < 2 else ((0, 1),)
        sources = [source_of(log[1], hops=2, neighbours=3, rank=rank, world=world) for rank, world in asked]
        for batches in zip(*(source.batches(slice_, stage="s", epoch=epoch) for source in sources), strict=True):
            whole, *parts = [drawn(batch)[1] for batch in batches]
            for node, found in whole.items():
                assert len(set(found)) == len(found) == min(3, len(expected[node]))
                assert set(found) <= expected[node]
            steps += ("item", 1) in whole
            counts.update((each,) for each in whole.get(("item", 1), ()))
            for part in parts:
                assert part.keys() & whole.keys()
                assert all(part[node] == whole[node] for node in part.keys() & whole.keys())
    everyone = expected["item", 1]
    share = 3 / len(everyone)
    assert len(everyone) > 10 and len(counts) == len(everyone)  # any neighbour as likely as another
    deviation = (steps * share * (1 - share)) ** 0.5
    assert all(abs(count - steps * share) < 4.5 * deviation for count in counts.values())


def test_a_sweep_draws_the_same_however_many_sweep(log: tuple[list[Row], Dataset]) -> None:
    found: list[dict[Node, list[Node]]] = []
    for rank, world in ((0, 1), (0, 2), (1, 2)):
        source = source_of(log[1], hops=1, neighbours=3, rank=rank, world=world)
        found.append({})
        for batch in source.sweep(Slice(split="val", negatives=1)):
            near = drawn(batch)[1]
            assert all(found[-1].get(node, own) == own for node, own in near.items())
            found[-1] |= near
    assert found[0] == found[1] | found[2] and found[1].keys() & found[2].keys()


def test_subsets_are_uniform() -> None:
    rng = np.random.default_rng(0)
    found = module._subsets(np.full(60_000, 5), rng.random((2, 60_000)))
    counts = Counter(map(tuple, found.T.tolist()))
    assert len(counts) == 10 and all(a < b for a, b in counts)
    assert all(abs(count - 6000) < 4.5 * 73.5 for count in counts.values())


def test_profiles_that_are_ranked_have_neighbours_of_all_domains(log: tuple[list[Row], Dataset]) -> None:
    rows, dataset = log
    expected, slice_ = edges(rows), Slice(split="test", domains=(1,))
    candidates = Candidates(
        source_of(dataset, hops=1, neighbours=0), slice_, domain=1, config=EvalConfig(ks=(5,), candidates="all")
    )
    for part, number in zip(candidates.profiles(), (len(candidates.user_key), candidates.items), strict=True):
        batch = part.batch(np.arange(number), size=number + 3, first=0, count=number)
        _, found = drawn(candidates.completed(batch))
        assert {node: set(near) for node, near in found.items()} == {node: expected[node] for node in found}
        assert len(found) >= number
    assert KEY * NEW in candidates.user_key and not expected["user", KEY * NEW]


def test_no_interactions_at_all(tmp_path: Path) -> None:
    rows = [Row("train", domain, 1 + at % 5, 1 + at % 7, 0.0) for domain in DOMAINS for at in range(20)]
    dataset = write_taken(str(tmp_path / "log"), rows)
    for batch in source_of(dataset, hops=2, neighbours=4).sweep(Slice()):
        assert batch.graph and len(batch.graph.sources) == 0
        assert batch.graph.nodes == (batch.graph.nodes[0],) * 3

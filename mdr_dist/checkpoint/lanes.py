"""What finished lanes left, put together: the start of the next lane, and the state of a run.

<run>/lanes/<lane>/  events.jsonl  progress.json  checkpoints/  result.json once it is done
                     before/<stage>.json  what was measured before a stage began, if it asks for that
                     stages/<stage>.json  what was measured at its end, if it asks for that
                     users.parquet where it ranked: every user's metrics on the test split

Every table lies in the newest checkpoint of the last lane, in the plan's order, that saves it; every dense parameter in
that of the last lane that trains it. A buffer, which no lane trains, is the last lane's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol
from urllib.parse import quote, unquote

from torch import Tensor

from mdr_dist import storage
from mdr_dist.checkpoint.checkpoint import Checkpoints
from mdr_dist.checkpoint.grown import Identity
from mdr_dist.checkpoint.seal import verify
from mdr_dist.errors import UserError
from mdr_dist.stage import Lane

RESULT, USERS = "result.json", "users.parquet"


class Fillable(Protocol):
    """Tables that can be filled from a checkpoint."""

    def load(self, fill: Callable[[dict[str, Any]], None]) -> None:
        """Have `fill` fill their state."""
        ...


def lane_folder(run: str, lane: str) -> str:
    """A lane's folder in a run; a lane may be named after a domain, which may be named anything."""
    return storage.join(run, "lanes", quote(lane, safe=" "))


def stage_file(folder: str, stage: str, *, before: bool) -> str:
    """Where in a lane's folder it is kept what a stage found `before` it began, or reached at its end."""
    return storage.join(folder, "before" if before else "stages", f"{quote(stage, safe=' ')}.json")


def checkpoints_of(run: str, lane: str) -> Checkpoints:
    """A lane's checkpoints."""
    return Checkpoints(storage.join(lane_folder(run, lane), "checkpoints"))


def schema_of(run: str) -> str:
    """The fingerprint of the schema that a run's checkpoints are of; empty while there is none."""
    for lane in storage.names(storage.join(run, "lanes")):
        checkpoints = checkpoints_of(run, unquote(lane))
        if (number := checkpoints.latest()) is not None:
            return checkpoints.progress(number)["identity"]["schema"]
    return ""


class Outputs:
    """The newest checkpoints of some lanes of a run, in the plan's order; a `UserError` for a lane that has none."""

    def __init__(self, run: str, lanes: Iterable[Lane]) -> None:
        self._lanes = tuple(lanes)
        self._checkpoints = {lane.name: checkpoints_of(run, lane.name) for lane in self._lanes}
        self._numbers = {name: each.latest() for name, each in self._checkpoints.items()}
        if missing := [name for name, number in self._numbers.items() if number is None]:
            where = "" if missing == ["main"] else f" in lane {missing[0]}"
            raise UserError(f"{run}: the run has no finished checkpoint yet{where}; train it first")
        self._owner = {table: lane.name for lane in self._lanes for table in lane.saves}
        self._verified: set[str] = set()

    @property
    def step(self) -> int:
        """Steps taken, over all lanes."""
        return sum(number or 0 for number in self._numbers.values())

    @property
    def folders(self) -> dict[str, str]:
        """Lane → its newest checkpoint's folder."""
        return {lane.name: self._folder(lane.name) for lane in self._lanes}

    @property
    def tables(self) -> frozenset[str]:
        """The tables that these lanes saved: a run without some domains has not all of its method's."""
        return frozenset(self._owner)

    def folder(self, table: str) -> str:
        """The checkpoint folder that holds a table; `KeyError` if none does."""
        return self._folder(self._owner[table])

    def lane(self, table: str) -> str:
        """The lane that saved a table."""
        return self._owner[table]

    def check(self, identity: Identity) -> None:
        """Raise `UserError` unless all of them are of this method and schema, or of one that this has grown from."""
        for name, checkpoints in self._checkpoints.items():
            checkpoints.check(self._number(name), identity)

    def dense(self) -> dict[str, Tensor]:
        """The method's dense parameters and buffers."""
        merged: dict[str, Tensor] = {}
        for lane in self._lanes:
            saved = self._checkpoints[lane.name].dense(self._number(lane.name))
            model = {name[6:]: tensor for name, tensor in saved.items() if name.startswith("model/")}
            own = {name for name in model if name in lane.writes or name not in self._trained}
            merged |= {name: model[name] for name in (own if merged else model)}
        return merged

    def load(self, tables: Fillable, names: Iterable[str], *, optimizer: bool = False) -> None:
        """Fill the weights of those of the tables `names` that these lanes saved.

        `optimizer` also takes up the optimizer state of those that they trained; else it stays as it is.
        """
        names = set(names)
        for lane in self._lanes:
            mine = {name for name in names if self._owner.get(name) == lane.name}
            wanted = {name: optimizer and name in lane.writes for name in mine}

            def fill(state: dict[str, Any], wanted: dict[str, bool] = wanted, lane: str = lane.name) -> None:
                chosen: dict[str, Any] = {}
                for key, value in state.items():
                    name, _, what = key.rpartition("/")
                    if name in wanted and (what == "weight" or wanted[name]):
                        chosen[key] = value
                if chosen:
                    self._checkpoints[lane].load_tables(self._number(lane), chosen)

            tables.load(fill)

    @property
    def _trained(self) -> frozenset[str]:
        return frozenset[str]().union(*(lane.writes for lane in self._lanes))

    def _number(self, lane: str) -> int:
        number = self._numbers[lane]
        assert number is not None
        return number

    def _folder(self, lane: str) -> str:
        """A lane's newest checkpoint, whose files are what was written."""
        folder = self._checkpoints[lane].folder(self._number(lane))
        if folder not in self._verified:
            verify(folder)
            self._verified.add(folder)
        return folder

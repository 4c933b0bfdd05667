"""Runs a plan's lanes: each as soon as those it needs are done and there is room for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from mdr_dist.stage import Lane


def run_lanes(
    lanes: Mapping[str, Lane], start: Callable[[str], None], *, cost: Mapping[str, float], room: float
) -> None:
    """Call `start(lane)` for every lane, in threads; at any time the started ones cost `room` together at most.

    A lane that costs more than `room` runs alone. When one fails, no other is started, those that run go on to their
    end, and the first failure is raised.
    """
    running: dict[Future[None], str] = {}
    done = set[str]()
    pool = ThreadPoolExecutor(max_workers=max(1, len(lanes)))
    try:
        while len(done) < len(lanes):
            busy = set(running.values())
            for name in _startable(lanes, done, busy, cost=cost, room=room):
                running[pool.submit(start, name)] = name
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            if any(future.exception() for future in ended):
                wait(running)
            done |= {_result_of(running, future) for future in ended}
    finally:
        # nobody waits here for lanes that an interrupt left running: Ray ends them
        pool.shutdown(wait=False, cancel_futures=True)


def _startable(
    lanes: Mapping[str, Lane], done: set[str], busy: set[str], *, cost: Mapping[str, float], room: float
) -> list[str]:
    chosen: list[str] = []
    for name, lane in lanes.items():
        if name not in done | busy and done.issuperset(lane.upstream):
            used = sum(cost[each] for each in busy.union(chosen))
            chosen += [name] if not used or used + cost[name] <= room else []
    return chosen


def _result_of(running: dict[Future[None], str], future: Future[None]) -> str:
    future.result()  # raises what the lane raised
    return running.pop(future)

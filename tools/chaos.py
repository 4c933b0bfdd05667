"""Break runs on purpose, go on with the same command, and compare what comes out with an undisturbed run.

    tools/chaos.py [--trials 100] [--seed 0] [--out tools/results/chaos.md] [--log tools/results/chaos.jsonl]

Every trial draws a method, a placement, how many workers, a moment and a fault. Then the command is given again until
it is done, as a user would. A trial is wrong if the result differs by a bit, if it takes over its deadline, or if a
checkpoint that says it is done does not load. `recovery` is the time from the fault until a lane is started again. With
`--log` every outcome is written down as it comes, and a trial that is there already is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from bench_file import commit, show
from chaos_trials import Trial, draw
from chaos_work import Work, digest, sound, started_after

HOOK = Path(__file__).parent / "chaos_hook"
DEADLINE = 300.0  # seconds for all attempts of a trial
ATTEMPTS = 5


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: `wrong` says what is wrong, if anything; `fired` whether the moment came at all."""

    trial: Trial
    attempts: int
    fired: bool
    wrong: str
    recovery: float | None


def run(trial: Trial, work: Work, folder: Path) -> Outcome:
    """Break one run, and go on with it until it is done."""
    token, driver = folder / "fired", folder / "driver"
    shard = work.shard(trial.method)
    plan = {"moment": trial.moment, "fault": trial.fault, "after": trial.after, "seconds": trial.storm}
    plan |= {"token": str(token), "driver": str(driver), "shard": str(shard), "storm": str(work.storm)}
    path = f"{HOOK}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    env = {**os.environ, **work.environment(trial), "PYTHONPATH": path, "MDR_CHAOS": json.dumps(plan)}
    before, started = shard.read_bytes(), time.monotonic()
    wrong, attempts, code = "", 0, None
    while code != 0 and attempts < ATTEMPTS and not wrong:
        attempts += 1
        left = DEADLINE - (time.monotonic() - started)
        code = attempt(work.command(trial, folder), env=env, driver=driver, seconds=left)
        work.fetch(trial, folder)
        wrong = "hangs" if code is None else sound(folder)
        shard.write_bytes(before)  # what broke is mended by hand, as an operator would
    if code and not wrong:
        wrong = f"not done after {attempts} attempts: {(folder / 'said.txt').read_text()[-300:].strip()}"
    if not wrong and digest(trial, folder) != work.expected(trial):
        wrong = "another result"
    fired = token.stat().st_ctime if token.exists() else None
    recovery = None if fired is None else started_after(folder, fired)
    return Outcome(trial, attempts, fired is not None, wrong, recovery)


def attempt(command: list[str], *, env: dict[str, str], driver: Path, seconds: float) -> int | None:
    """The exit code of a command; `None` if it took too long, and was ended with all it had started."""
    with (driver.parent / "said.txt").open("ab") as said:
        process = subprocess.Popen(command, env=env, stdout=said, stderr=said, start_new_session=True)
    driver.write_text(str(process.pid))
    try:
        return process.wait(timeout=max(seconds, 1))
    except subprocess.TimeoutExpired:
        return None
    finally:
        end_session(process.pid)


def end_session(leader: int) -> None:
    """Kill what is left of a command's session: a driver that was killed leaves its Ray behind for a while."""
    listed = subprocess.run(["ps", "-eo", "pid=,sid="], capture_output=True, text=True, check=True).stdout
    for pid, session in (line.split() for line in listed.splitlines()):
        if int(session) == leader:
            subprocess.run(["kill", "-9", pid], capture_output=True, check=False)


def report(args: argparse.Namespace, outcomes: list[Outcome], *, logged: int) -> str:
    """The table, under the command that makes it; `logged`: how many outcomes were in the log already."""
    made = f"{date.today()}, commit {commit()}." + (f" {logged} of the trials are of other commits." if logged else "")
    lines = [
        "# Faults",
        "",
        f"    tools/chaos.py --trials {args.trials} --seed {args.seed} --out tools/results/chaos.md",
        "",
        made,
        "",
        "| # | method | placement | workers | on | moment | fault | attempts | recovery, s | result |",
        "|---:|---|---|---:|---|---|---|---:|---:|---|",
    ]
    for outcome in outcomes:
        trial = outcome.trial
        recovery = "" if outcome.recovery is None else f"{outcome.recovery:.1f}"
        result = outcome.wrong or ("the same" if outcome.fired else "the same; the moment did not come")
        lines.append(
            f"| {trial.number} | {trial.method} | {trial.placement} | {trial.workers} | {trial.store} | {trial.moment} "
            f"| {trial.fault} | {outcome.attempts} | {recovery} | {result} |"
        )
    recoveries = sorted(outcome.recovery for outcome in outcomes if outcome.recovery is not None)
    wrong = Counter("wrong" if outcome.wrong else "same" for outcome in outcomes)
    missed = sum(not outcome.fired for outcome in outcomes)
    said = f"{len(outcomes)} trials: {wrong['same']} the same, {wrong['wrong']} wrong; {missed} without their moment"
    if recoveries:
        said += f", recovery {recoveries[len(recoveries) // 2]:.1f} s in the middle, {recoveries[-1]:.1f} s at most"
    lines += ["", said + "."]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Draw, break, compare, tell; the exit code is 1 if any trial is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", type=int, nargs="*", help="the numbers of trials to run")
    parser.add_argument("--log", type=Path)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the store and the trial under way end too
    trials = [trial for trial in draw(args.trials, args.seed) if not args.only or trial.number in args.only]
    known = read(args.log) if args.log and args.log.exists() else {}
    logged = sum(trial in known for trial in trials)
    with tempfile.TemporaryDirectory(prefix="mdr-chaos-") as root, Work(Path(root)) as work:
        for trial in (trial for trial in trials if trial not in known):
            folder = Path(root) / f"trial-{trial.number}"
            folder.mkdir()
            known[trial] = run(trial, work, folder)
            shutil.rmtree(folder)
            tell(known[trial], args.log)
    outcomes = [known[trial] for trial in trials]
    show(report(args, outcomes, logged=logged), args.out)
    return int(any(outcome.wrong for outcome in outcomes))


def read(log: Path) -> dict[Trial, Outcome]:
    """The outcomes that were written down."""
    told = [json.loads(line) for line in log.read_text().splitlines()]
    outcomes = [Outcome(**{**each, "trial": Trial(**each["trial"])}) for each in told]
    return {outcome.trial: outcome for outcome in outcomes}


def tell(outcome: Outcome, log: Path | None) -> None:
    """Say how a trial ended, and write it down if there is a log."""
    line = json.dumps(asdict(outcome))
    print(line, file=sys.stderr, flush=True)
    if log:
        with log.open("a") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())

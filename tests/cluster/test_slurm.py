"""The Slurm script in a dry run: what it says to Slurm, to Ray and to mdr, which here only write it down."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.repository import CLUSTER, tool

SCRIPT = CLUSTER / "slurm" / "train.sbatch"
WORDS = ("SLURM_", "RAY_", "MDR_", "GLOO_", "NCCL_")

# Each writes a line: its name, then its arguments. `srun` runs what it is given, as the node of --nodelist.
SRUN = """
for word in "$@"; do case $word in --nodelist=*) export NODE=${word#*=} ;; esac; done
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
IP = """
[[ $6 == ib0 ]] || exit 1
echo "4: ib0    inet 10.0.0.${NODE#node}/24 brd 10.0.0.255 scope global ib0"
"""
SCONTROL = """
if [[ $1 == show ]]; then printf "node%s\\n" 1 2 3; fi
if [[ $1 == requeue && -n $(find "$SLURM_SUBMIT_DIR" -name '.mdr-token-*') ]]; then echo "token left" >>"$RECORD"; fi
"""
RAY = """
if [[ -v RAY_AUTH_TOKEN ]]; then echo "another token" >>"$RECORD"; fi
stat -c 'token %a' "$RAY_AUTH_TOKEN_PATH" >>"$RECORD"
wc -c <"$RAY_AUTH_TOKEN_PATH" | sed 's/^/token bytes /' >>"$RECORD"
echo up >"$RECORD.$NODE"
exec sleep 60
"""
PYTHON = 'ls "$RECORD".node* 2>/dev/null | wc -l'
MDR = """
env | grep -E '^(RAY_AUTH_MODE|NCCL_SOCKET_IFNAME)=' | sort >>"$RECORD"
if [[ -z ${MDR_HANGS:-} ]]; then exit "${MDR_CODE:-0}"; fi
trap 'echo "mdr ended by TERM" >>"$RECORD"; exit 143' TERM
echo hanging >>"$RECORD"
while :; do sleep 0.05; done
"""


@dataclass(frozen=True)
class Dry:
    """A folder to submit from, and a started script."""

    root: Path
    process: subprocess.Popen[str]

    def lines(self) -> list[str]:
        record = self.root / "record"
        return record.read_text().splitlines() if record.exists() else []

    def wait_for(self, line: str) -> None:
        until = time.monotonic() + 20
        while line not in self.lines():
            assert time.monotonic() < until, self.lines()
            time.sleep(0.05)

    def end(self) -> tuple[int, list[str]]:
        """The exit code and what was called."""
        self.process.communicate(timeout=30)
        return self.process.returncode, self.lines()


@pytest.fixture
def submit(tmp_path: Path) -> Iterator[Callable[..., Dry]]:
    """Starts the script as Slurm would on three nodes; arguments of `mdr train`, and variables over Slurm's."""
    commands = tmp_path / ".venv" / "bin"
    commands.mkdir(parents=True)
    bodies = {"srun": SRUN, "ip": IP, "scontrol": SCONTROL, "ray": RAY, "python": PYTHON, "mdr": MDR}
    for name, body in bodies.items():
        told = "" if name in ("python", "ip") else f'echo "{name} $*" >>"$RECORD"\n'
        (commands / name).write_text(f"#!/usr/bin/env bash\n{told}{body}\n")
        (commands / name).chmod(0o755)

    def start(*arguments: str, **over: str) -> Dry:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(WORDS)}
        slurm = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "4711", "SLURM_JOB_NUM_NODES": "3"}
        slurm |= {"SLURM_JOB_NODELIST": "node[1-3]", "SLURM_CPUS_PER_TASK": "8", "SLURM_GPUS_ON_NODE": "2"}
        environment = inherited | slurm | {"MDR_INTERFACE": "ib0", "RECORD": str(tmp_path / "record")} | over
        process = subprocess.Popen(
            ["bash", str(SCRIPT), "job.yaml", "s3://bucket/runs", *arguments],
            env=environment,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        processes.append(process)
        return Dry(tmp_path, process)

    processes: list[subprocess.Popen[str]] = []
    yield start
    for process in processes:
        with contextlib.suppress(ProcessLookupError):  # a group with nobody left is as it should be
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def started(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("ray ")]


def test_starts_ray_on_every_node_then_trains_and_ends_it(submit: Callable[..., Dry]) -> None:
    dry = submit("--set", "train.seed=3")
    code, lines = dry.end()
    size = "--block --disable-usage-stats --num-cpus=8 --num-gpus=2 --object-store-memory=268435456"
    assert code == 0
    head, *others = started(lines)
    assert head == f"ray start {size} --head --node-ip-address=10.0.0.1 --port=24711 --include-dashboard=false"
    assert sorted(others) == [
        f"ray start {size} --address=10.0.0.1:24711 --node-ip-address=10.0.0.{node}" for node in (2, 3)
    ]
    (training,) = (line for line in lines if line.startswith("mdr train"))
    assert training == (
        "mdr train job.yaml --runs s3://bucket/runs --address 10.0.0.1:24711"
        " --workers 6 --set launch.gpus_per_worker=1 --set train.seed=3"
    )
    assert lines.index(training) > max(lines.index(line) for line in started(lines))
    assert not [line for line in lines if line.startswith("scontrol requeue")]
    assert "NCCL_SOCKET_IFNAME=ib0" in lines
    with pytest.raises(ProcessLookupError):
        os.killpg(dry.process.pid, 0)


def test_every_node_is_held_to_a_token_that_only_the_user_reads(submit: Callable[..., Dry]) -> None:
    dry = submit(RAY_AUTH_TOKEN="of another cluster")
    _, lines = dry.end()
    assert lines.count("token 600") == lines.count("token bytes 64") == 3
    assert "RAY_AUTH_MODE=token" in lines
    assert "another token" not in lines
    assert not [path for path in dry.root.iterdir() if path.name.startswith(".mdr-token")]


def test_without_gpus_a_worker_takes_a_cpu(submit: Callable[..., Dry]) -> None:
    _, lines = submit(SLURM_GPUS_ON_NODE="").end()
    assert [line for line in lines if "--workers 24 --set launch.gpus_per_worker=0" in line]


def test_asked_to_end_it_ends_training_and_is_queued_again(submit: Callable[..., Dry]) -> None:
    dry = submit(MDR_HANGS="1")
    dry.wait_for("hanging")
    dry.process.send_signal(signal.SIGTERM)
    code, lines = dry.end()
    assert code == 143
    assert [line for line in lines if "TERM" in line or "requeue" in line] == [
        "mdr ended by TERM",
        "scontrol requeue 4711",
    ]


def test_asked_to_end_while_nodes_join_it_is_queued_again(submit: Callable[..., Dry]) -> None:
    dry = submit(SLURM_JOB_NUM_NODES="4")
    dry.wait_for("token bytes 64")
    dry.process.send_signal(signal.SIGTERM)
    code, lines = dry.end()
    assert (code, lines[-1]) == (143, "scontrol requeue 4711")
    assert not [line for line in lines if line.startswith("mdr")]


@pytest.mark.parametrize("code", ["1", "2"])
def test_failure_is_not_queued_again(submit: Callable[..., Dry], code: str) -> None:
    ended, lines = submit(MDR_CODE=code).end()
    assert ended == int(code)
    assert not [line for line in lines if line.startswith("scontrol requeue")]


@pytest.mark.parametrize(
    ("over", "code", "says"),
    [
        ({"MDR_INTERFACE": "eth9"}, 2, "node node1 has no address on eth9; set MDR_INTERFACE"),
        ({"SLURM_JOB_NUM_NODES": "4", "MDR_START_SECONDS": "2"}, 1, "4 of 4 nodes did not join within 2 s"),
    ],
)
def test_says_what_is_missing(submit: Callable[..., Dry], over: dict[str, str], code: int, says: str) -> None:
    dry = submit(**over)
    said, _ = dry.process.communicate(timeout=30)
    assert dry.process.returncode == code
    assert says in said
    assert not [line for line in dry.lines() if line.startswith("mdr")]


def test_lint() -> None:
    subprocess.run([tool("shellcheck"), SCRIPT], check=True)


def test_slurm_is_asked_for_a_signal_in_time_and_to_queue_again() -> None:
    options = re.findall(r"^#SBATCH (\S+)", SCRIPT.read_text(), re.MULTILINE)
    assert {"--signal=B:TERM@120", "--requeue", "--open-mode=append", "--ntasks-per-node=1"} <= set(options)

"""The files beside the package that tests read: where they are, and what is in them."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
KUBERAY = ("raycluster", "rayjob", "networkpolicy")


def text(*path: str) -> str:
    return ROOT.joinpath(*path).read_text(encoding="utf-8")


def tool(name: str) -> Path:
    """A program that came with a package of the environment."""
    return Path(sys.executable).parent / name


def manifest(name: str) -> dict[str, Any]:
    """A manifest of cluster/kuberay, new at each call."""
    return yaml.safe_load(text("cluster", "kuberay", f"{name}.yaml"))


def ray_up() -> dict[str, Any]:
    """The file of `ray up`, new at each call."""
    return yaml.safe_load(text("cluster", "ray-up", "cluster.yaml"))


def commands(markdown: str) -> list[str]:
    """The commands of the shell blocks of a document, a line each, without comments."""
    blocks = re.findall(r"^```bash\n(.*?)^```", markdown, re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [bare for line in lines if (bare := re.sub(r"(^|\s)#.*", "", line).strip())]

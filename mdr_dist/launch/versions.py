"""The versions that a submitter and every node of a cluster must agree on.

`python -m mdr_dist.launch.versions` is the first thing that a submitted job does: it compares this machine with what
the submitter wrote into `versions.json` of the package, and imports nothing that may be missing here.
"""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

FILE = "versions.json"
PACKAGES = {
    "torch": ("torch",),
    "torchrec": ("torchrec",),
    "fbgemm": ("fbgemm-gpu", "fbgemm-gpu-cpu"),  # one program under two names
    "ray": ("ray",),
}


def versions() -> dict[str, str]:
    """This machine's versions; `none` of what is not installed.

    Of Python, major and minor; of the others without what stands behind a `+`: builds for CPU and for CUDA are alike.
    """
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    return found | {name: _installed(names) for name, names in PACKAGES.items()}


def differences(here: dict[str, str], there: dict[str, str]) -> str:
    """What differs, as `torch 2.13.0 here, 2.12.1 there; …`; empty if nothing does."""
    different = (name for name in here if here[name] != there.get(name, "none"))
    return "; ".join(f"{name} {here[name]} here, {there.get(name, 'none')} there" for name in different)


def _installed(names: tuple[str, ...]) -> str:
    for name in names:
        try:
            return version(name).partition("+")[0]
        except PackageNotFoundError:
            continue
    return "none"


def main() -> int:
    """The exit code: 2 and one line if this machine is not as the submitter's."""
    found = differences(versions(), json.loads(Path(FILE).read_text(encoding="utf-8")))
    if found:
        line = f"versions differ between node {platform.node()} (here) and the submitter (there): {found}"
        sys.stderr.write(f"mdr: error: {line}; install the same on both\n")
    return 2 if found else 0


if __name__ == "__main__":
    sys.exit(main())

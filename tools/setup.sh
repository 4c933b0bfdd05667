#!/usr/bin/env bash
# Makes .venv with everything that runs, tests and checks this project. Call it as often as you like.
usage='usage: tools/setup.sh

Makes .venv in the repository root; when nothing changed it says so and ends. Settings, all optional, and remembered
by .venv, so that tools/test.sh and later calls need not repeat them:
  PYTHON            the Python to use, 3.11 or newer       (default: python3, else python3.13, 3.12, 3.11)
  MDR_TORCH         the torch version to install, 2.11-2.13 (default: the tested one, 2.13.0)
  MDR_SYSTEM_TORCH  1: keep the torch that $PYTHON already has, as on a GPU image, and install none
  MDR_DEV           0: leave out what only tests and checks need, as in an image      (default: 1)
pip is called plainly, so its own settings hold (PIP_INDEX_URL, PIP_FIND_LINKS, PIP_NO_INDEX, pip.conf).
A machine without a GPU that takes packages from PyPI should add the index of CPU builds, which are far smaller:
  PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu tools/setup.sh'

set -euo pipefail
cd "$(dirname "$0")/.."
readonly tested_torch=2.13.0 steps=5 stamp=.venv/mdr-setup settings=.venv/mdr-settings py=.venv/bin/python
remembered() { sed -n "s/^$1=//p" "$settings" 2>/dev/null || true; }
readonly torch_asked="${MDR_TORCH-$(remembered torch)}"
readonly torch_wanted="${torch_asked:-$tested_torch}"
readonly system_torch="${MDR_SYSTEM_TORCH-$(remembered system_torch)}"
readonly dev="${MDR_DEV-$(remembered dev)}"
# pip's own settings come from the caller; these only keep it quiet
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_INPUT=1 PIP_REQUIRE_VIRTUALENV=0
unset PYTHONHOME VIRTUAL_ENV

say() { printf 'setup: %s\n' "$*"; }
step() { say "$1/$steps $2"; }
fail() {
    printf 'setup: error: %s\n' "$*" >&2
    exit 1
}
install() {
    local what=$1
    shift
    if "$py" -m pip install -qq --no-warn-conflicts --progress-bar off "$@"; then return; fi
    echo failed >"$stamp" # pip itself gave up, so the packages are whole: the next call goes on from here
    fail "could not install $what (see above)"
}

find_python() {
    local candidate candidates=("$(remembered python)" python3 python3.13 python3.12 python3.11)
    if [[ -n ${PYTHON:-} ]]; then candidates=("$PYTHON"); fi
    for candidate in "${candidates[@]}"; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer is needed, ${PYTHON:-python3} is not one; name one with PYTHON=/path/to/python3.11"
}

make_venv() { # $1: its base Python
    local kind
    kind="Python $(version_of "$1"), system torch: ${system_torch:-0}"
    if [[ -d .venv && ! -f $stamp ]]; then
        fail ".venv is there but was not made by tools/setup.sh; remove it or move it away"
    fi
    if [[ -f $stamp && $(<"$stamp") != working && $(remembered kind) == "$kind" ]] &&
        "$py" -m pip --version >/dev/null 2>&1; then
        remember "$1" "$kind"
        return # whole and of the same kind: bring it up to date in place
    fi
    "$1" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$1 lacks the venv module; install it (Debian and Ubuntu: apt install python3-venv)"
    rm -rf .venv
    mkdir .venv
    echo working >"$stamp"
    remember "$1" "$kind"
    "$1" -m venv .venv || fail "could not make .venv"
}

remember() {
    printf '%s\n' "python=$1" "kind=$2" "torch=$torch_asked" "system_torch=$system_torch" "dev=$dev" >"$settings"
}
version_of() { "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null || echo none; }

borrow_torch() { # makes $1's torch, and what lies beside it, visible in .venv; --system-site-packages would not do
    # where $1 is itself in an environment, as on many GPU images: it leads to the Python below that
    local from
    from=$("$1" -c 'import os, torch; print(os.path.dirname(os.path.dirname(torch.__file__)))' 2>/dev/null) ||
        fail "MDR_SYSTEM_TORCH=1, but $1 has no torch; name the Python that has it with PYTHON"
    # a new environment may bring an old setuptools, which would hide the borrowed one
    "$py" -m pip uninstall --quiet --yes setuptools 2>/dev/null || true
    "$py" -c 'import sys, sysconfig, pathlib
pathlib.Path(sysconfig.get_path("purelib"), "system-torch.pth").write_text(sys.argv[1] + "\n")' "$from"
}

pair_with_torch() { # writes .venv/pins.txt and sets $fbgemm: fbgemm 1.X and torchrec 1.X are built for torch 2.(X+5)
    local torch cuda minor
    read -r torch cuda < <("$py" -W ignore -c 'import torch; print(torch.__version__, torch.version.cuda)') ||
        fail "torch was installed but cannot be imported"
    minor=$(sed -E 's/^2\.([0-9]+)\..*/\1/' <<<"$torch")
    if ! [[ $minor =~ ^1[123]$ ]]; then fail "torch $torch is not supported; 2.11, 2.12 and 2.13 are"; fi
    fbgemm=fbgemm-gpu-cpu
    if [[ $cuda != None ]]; then fbgemm=fbgemm-gpu; fi
    printf '%s\n' "torch==$torch" "$fbgemm==1.$((minor - 5)).*" "torchrec==1.$((minor - 5)).*" >.venv/pins.txt
    torch_found="torch $torch ($([[ $cuda == None ]] && echo CPU || echo "CUDA $cuda"))"
}

verify() {
    "$py" - <<'END'
from importlib.metadata import distributions, version

import fbgemm_gpu  # noqa: F401
import ray
import torch
import torchrec  # noqa: F401

import mdr_dist  # noqa: F401

torch.ops.fbgemm.asynchronous_complete_cumsum(torch.tensor([1, 2]))
heavy = sorted({d.name for d in distributions() if d.name.lower().startswith(("nvidia-", "triton"))})
if torch.version.cuda is None and heavy:
    raise SystemExit(f"a CPU torch, but CUDA packages came with it: {', '.join(heavy)}")
print(f"torch {torch.__version__}, torchrec {version('torchrec')}, ray {ray.__version__}")
END
}

main() {
    local python key found extras='[dev]'
    python=$(find_python)
    key=$(printf '%s\n' "$PWD" "$python $(version_of "$python") $torch_wanted $system_torch $dev" |
        cat - pyproject.toml tools/setup.sh tools/constraints.txt | sha256sum)
    if [[ -f $stamp && $(<"$stamp") == "$key" ]] && "$py" -c '' 2>/dev/null; then
        say ".venv is up to date"
        return
    fi
    step 1 "Python $(version_of "$python") in .venv"
    make_venv "$python"
    echo working >"$stamp" # whoever finds this word finds an interrupted set-up, and starts again from nothing

    local tested=()
    if [[ $system_torch == 1 ]]; then
        step 2 "torch from $python"
        borrow_torch "$python"
    else
        # first and alone: asked for together with the rest, it may come from another index as another build
        step 2 "torch $torch_wanted"
        if [[ $torch_wanted == "$tested_torch"* ]]; then tested=(-c tools/constraints.txt); fi
        install "torch $torch_wanted" "torch==$torch_wanted" "${tested[@]}"
    fi
    pair_with_torch
    step 3 "$fbgemm and torchrec for $torch_found"
    install "$fbgemm" "$fbgemm" -c .venv/pins.txt "${tested[@]}"
    install torchrec torchrec --no-deps -c .venv/pins.txt "${tested[@]}"
    step 4 "mdr_dist and what it needs"
    install setuptools 'setuptools>=77' "${tested[@]}"
    if [[ $dev == 0 ]]; then extras=; fi
    install mdr_dist --no-build-isolation --editable ".$extras" -c .venv/pins.txt "${tested[@]}"
    step 5 "trying what was installed"
    found=$(verify) || fail "the installed packages do not work together (see above)"
    echo "$key" >"$stamp"
    say "ready in $SECONDS s: $found"
}

if [[ $# -gt 0 ]]; then
    echo "$usage"
    [[ $1 == --help || $1 == -h ]] && exit 0 || exit 2
fi
exec 9<tools/setup.sh # the lock: one set-up at a time
if command -v flock >/dev/null && ! flock -n 9; then
    say "waiting for another set-up to end"
    flock 9
fi
main

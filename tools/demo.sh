#!/usr/bin/env bash
# From nothing to a trained, evaluated, exported Crocodile: set-up, a synthetic multi-domain data set, three methods
# (Crocodile by two Ray Train workers over sharded tables), their table, an export read back, and a CSV of one's own.
# Usage: tools/demo.sh [FOLDER]   (default: demo; what an earlier demo left there is replaced)
set -euo pipefail
cd "$(dirname "$0")/.."
tools/setup.sh
mdr=.venv/bin/mdr
out=${1:-demo}
if [ -e "$out" ] && [ ! -e "$out/.mdr-demo" ]; then
    echo "demo.sh: $out exists and is not an earlier demo; name another folder" >&2
    exit 2
fi
rm -rf "$out"
mkdir -p "$out"
touch "$out/.mdr-demo"

# four epochs where the jobs say twelve: minutes matter more here than the last point of AUC
short=(--set train.epochs=4 --set train.eval_epochs=2)

say() { printf '\n== %s\n' "$*"; }

say "a data set with planted structure: five domains, conflicting preferences, best possible AUC known"
"$mdr" synth "$out/synthetic" --preset conflicting --rows 150000

for method in shared_bottom mmoe; do
    say "$method, in this process"
    "$mdr" train "jobs/synthetic/$method.yaml" "${short[@]}" --set "data.path=$out/synthetic" --runs "$out/runs"
done
say "crocodile, two Ray Train workers"
"$mdr" train jobs/synthetic/crocodile.yaml "${short[@]}" --workers 2 --set "data.path=$out/synthetic" --runs "$out/runs"

say "export, and the export measured again"
"$mdr" export "$out/runs/synthetic-crocodile" "$out/export"
"$mdr" evaluate "$out/export"

say "your own log: a CSV with a small recipe"
"$mdr" prepare jobs/own-csv/prepare.yaml "$out/own" --raw jobs/own-csv
"$mdr" train jobs/own-csv/crocodile.yaml --set "data.path=$out/own" --runs "$out/runs" --quiet

say "domain by method"
"$mdr" compare "$out"/runs/synthetic-{shared-bottom,mmoe,crocodile}
echo "export: $out/export"

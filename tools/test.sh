#!/usr/bin/env bash
# Sets up what is missing, then runs the tests:  tools/test.sh [--quick] [pytest's own arguments]
# --quick leaves out the slow ones. The exit code is pytest's. Asked for no tests by name, it runs them in three parts side
# by side that take about as long: Ray often waits for one of its processes, and leaves a core to the others.
set -euo pipefail
cd "$(dirname "$0")/.."

arguments=() named=
for argument in "$@"; do
    if [[ $argument == --quick ]]; then arguments+=(-m "not slow"); else arguments+=("$argument") named=1; fi
done
tools/setup.sh

# Several processes share the machine in many tests: more threads each would only make them wait for one another.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Whatever the tests start inherits the mark, wherever it ends up in the process tree, and Ray writes into the folder.
export MDR_TEST_RUN="$$-$RANDOM$RANDOM"
RAY_TMPDIR=$(mktemp -d /tmp/mdr-XXXXXX) # not below TMPDIR: a socket's path must be short
export RAY_TMPDIR
export RAY_worker_niceness=0 # Ray's own is 15: its workers would starve beside other tests

left_over() {
    local file
    for file in $(grep -slzxF "MDR_TEST_RUN=$MDR_TEST_RUN" /proc/[0-9]*/environ); do
        file=${file#/proc/}
        echo "${file%/environ}"
    done
}
clean_up() {
    local pid round
    export -n MDR_TEST_RUN
    for round in 1 2 3 4 5; do # what a dying process started meanwhile is found in the next round
        for pid in $(left_over); do kill -KILL "$pid" 2>/dev/null || true; done
        [[ -z $(left_over) ]] && break || sleep 0.2
    done
    rm -rf "$RAY_TMPDIR"
}
trap clean_up EXIT

code=0
if [[ -n $named ]]; then
    .venv/bin/python -m pytest "${arguments[@]}" || code=$?
    exit "$code"
fi
methods=(tests/contract tests/data/test_*.py tests/eval tests/golden tests/nn tests/tables tests/test_*.py)
faults=(tests/integration/test_{ray,nodes,namespaces,learning}.py)
arguments+=(--durations=30 --durations-min=5) # where the time goes is looked for in every long log
.venv/bin/python -m pytest "${arguments[@]}" "${methods[@]}" >"$RAY_TMPDIR/methods.txt" 2>&1 &
beside=($!)
.venv/bin/python -m pytest "${arguments[@]}" "${faults[@]}" >"$RAY_TMPDIR/faults.txt" 2>&1 &
beside+=($!)
others=("${methods[@]}" "${faults[@]}")
.venv/bin/python -m pytest "${arguments[@]}" "${others[@]/#/--ignore=}" || code=$?
for part in "${beside[@]}"; do
    ended=0
    wait "$part" || ended=$?
    [[ $ended == 0 || $ended == 5 ]] || code=$ended # 5: --quick has left out all of a part's tests
done
cat "$RAY_TMPDIR"/{methods,faults}.txt
exit "$code"

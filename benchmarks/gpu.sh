#!/usr/bin/env bash
# What a GPU can be asked in less than eight minutes: its tests, the soak, merging in place, the price of effects.
#
#   bash benchmarks/gpu.sh            with the Python in .venv, or the one that PYTHON names
#
# Prints one table in Markdown, a row for each step; what each said is in the folder that the last line names. A step
# that takes longer than its limit is ended, and the others go on. Some 18 GB in ELEMENTAL_BENCHMARKS (default:
# /tmp/elemental-benchmarks) hold the synthetic checkpoints, which are written first and kept. DEVICE=cpu TINY=1 tries
# the script itself without a GPU, in sizes that say nothing.
set -uo pipefail
cd "$(dirname "$0")/.."

device=${DEVICE:-cuda}
folder=${ELEMENTAL_BENCHMARKS:-/tmp/elemental-benchmarks}
python=${PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null || { echo "No Python at $python: set PYTHON to one that has the extra dev." >&2; exit 2; }
if [ "$device" != cpu ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "There is no GPU here that torch can use; nothing was measured." >&2
    exit 2
fi

results=$(mktemp -d)
worst=0
rows=()

# step NAME SECONDS COMMAND...: run it, and keep its last line that is no table, and its tables.
step() {
    local name=$1 seconds=$2 start=$SECONDS log code said
    shift 2
    log=$results/${name// /-}.txt
    timeout --kill-after=10 "$seconds" "$@" >"$log" 2>&1
    code=$?
    case $code in
        0) said=done ;;
        124 | 137) said="ended after its limit of $seconds s" ;;
        *) said="FAILED ($code)" ;;
    esac
    [ $code -eq 0 ] || worst=1
    rows+=("| $name | $said | $((SECONDS - start)) | $(summary "$log") |")
}

# summary LOG: the lines that hold the figures of a step, in one cell of a table.
summary() {
    grep -E '^\| (a cell|whole model|first recipe|demo|sd15|sdxl)|passed|failed|skipped|as fast|^Copying|^failures|rounds in|Error' "$1" |
        tail -n 8 | sed -e 's/^| *//' -e 's/ *|$//' -e 's/|/,/g' | paste -sd ';' | sed 's/;/<br>/g'
}

models() {
    "$python" -c '
import sys
from pathlib import Path
from benchmarks.synthetic import write_checkpoint
folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
for layout in sys.argv[2:]:
    for seed in (1, 2):
        write_checkpoint(folder, layout, dtype="F16", seed=seed)
' "$folder" "$@"
}
export -f models
export python folder

soak=("$python" -m tests.attacks.soak --device "$device" --rounds)
cost=("$python" -m benchmarks.effect_cost --dir "$folder" --device "$device")
if [ -n "${TINY:-}" ]; then
    step "tests" 100 "$python" -m pytest -p no:randomly tests/test_live.py -k "two_devices"
    step "soak" 100 "${soak[@]}" 20
    step "effects demo" 100 "${cost[@]}" --layout demo --passes 1 --size 64 --steps 1
else
    step "checkpoints" 90 bash -c 'models sd15 sdxl'
    step "tests" 60 "$python" -m pytest -p no:randomly tests/test_live.py tests/test_merge.py -k "two_devices or a_gpu"
    step "soak" 90 "${soak[@]}" 50
    step "merging in place" 70 "$python" -m benchmarks.live_sweep --dir "$folder" --device "$device"
    step "effects sd15" 70 "${cost[@]}" --layout sd15
    step "effects sdxl" 90 "${cost[@]}" --layout sdxl
fi

name=$("$python" -c 'import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU")')
version=$("$python" -c 'import elemental, torch; print(f"version {elemental.__version__}, torch {torch.__version__}")')
echo "$name, $version, $SECONDS s in all"
echo
echo "| step | | seconds | figures |"
echo "|---|---|---|---|"
printf '%s\n' "${rows[@]}"
echo
echo "What the steps said: $results"
exit $worst

#!/usr/bin/env bash
# One training step of the paper's networks, statcell and PyTorch in turn, on 2 threads: benches/training_step.sh [ROUNDS]
# Needs python3 with torch==2.11.0 (PYTHON names another one).
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-3} python=${PYTHON:-python3}
export RAYON_NUM_THREADS=2
cargo bench --bench training_step --no-run 2> /dev/null
for setting in "2d 32 5" "2d-target 32 5" "3d 2 3" "3d-target 2 3"; do
  for ((round = 0; round < rounds; round++)); do
    ours=$(cargo bench --quiet --bench training_step -- $setting)
    theirs=$("$python" benches/training_step.py $setting)
    printf 'statcell %s\nPyTorch  %s\n' "$ours" "$theirs"
    awk -v a="$(sed 's/.*median \([0-9.]*\).*/\1/' <<< "$ours")" -v b="$(sed 's/.*median \([0-9.]*\).*/\1/' <<< "$theirs")" \
      'BEGIN { printf "ratio %.2f\n", a / b }'
  done
done

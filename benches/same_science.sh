#!/usr/bin/env bash
# The same cells, settings and number of epochs in statcell and in PyTorch: do they end at the same validation ELBO?
# benches/same_science.sh [FOLDER]; needs python3 with torch==2.11.0, tifffile and numpy (PYTHON names another one).
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-$(mktemp -d)} python=${PYTHON:-python3}
cargo build --release --quiet
statcell() { target/release/statcell "$@" --store "$folder/store"; }
time statcell run benches/same_science.toml --results "$folder/results"
for set in train validation; do
  statcell get benches/same_science.toml "images.$set" --out "$folder/$set"
done
for seed in 1 2 3 4; do
  for model in shape structure; do
    statcell get benches/same_science.toml "${model}[seed=$seed].metrics" --out "$folder/metrics/$model-$seed"
  done
done
"$python" benches/same_science.py "$folder/train" "$folder/validation" "$folder/metrics"

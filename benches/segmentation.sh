#!/bin/sh
# Segmentation on the real field against SciPy and scikit-image, and the whole field from fresh, in one run.
# From the project's folder: sh benches/segmentation.sh; PYTHON names the Python that has the packages of segmentation.py.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cargo build --release --quiet
cargo bench --quiet --bench segmentation -- "$folder"
"${PYTHON:-python3}" benches/segmentation.py "$folder"
# Three times, each on a fresh store: what else the machine does disturbs.
for round in 1 2 3; do
    target/release/statcell run pipelines/hipsc-field.toml cells --store "$folder/store-$round" --results "$folder/results" 2>&1 |
        sed -n 's/^cells: done/the whole field, segment-align: done/p'
done

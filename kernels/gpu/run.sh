#!/usr/bin/env bash
# Checks and times the CUDA kernels on the GPU of this machine, beside PyTorch. Needs nvcc, g++ and PyTorch with CUDA; no network, no Rust.
#   [OUT=folder] kernels/gpu/run.sh [--budget SECONDS] [--only PART,…] [--no-times]
# One table at the end; OUT (./out) holds convolutions.json and a log of each part.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OUT=$(realpath -m "${OUT:-out}")
exec python3 kernels/gpu/convolutions.py "$@"

#!/usr/bin/env bash
# Runs the checks of the CUDA kernels on this machine's CPU.
#   kernels/host/run.sh            every kernel, a few cases: under a minute on 2 idle cores
#   kernels/host/run.sh all        all cases and orders, every barrier removed once, address and undefined-behaviour sanitizers: about 30 minutes
# CXX names the compiler (c++). Compiles for the GPU too where NVRTC is found (compile.py).
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
flags="-std=c++17 -ffp-contract=off -U_FORTIFY_SOURCE -Wall -Wextra -Werror -Wno-unknown-pragmas -Wno-missing-field-initializers"
checks=$(ls check_*.cpp | sed 's/\.cpp$//')
build() { # check suffix options
  ${CXX:-c++} $flags $3 "$1.cpp" -o "$work/$1$2"
}
run() { # check suffix arguments
  echo "== $1$2 ${3:-}"
  "$work/$1$2" ${3:-} > "$work/log" 2>&1 || { cat "$work/log"; echo "$1$2 ${3:-} failed"; exit 1; }
  tail -1 "$work/log"
}
for check in $checks; do build "$check" "" -O2; done
if [ "${1:-}" != all ]; then
  for check in $checks; do run "$check" "" quick; done
  exit
fi
for check in $checks; do
  run "$check" ""
  run "$check" "" barriers
  build "$check" .sanitized "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined"
  run "$check" .sanitized quick
done
python3 compile.py

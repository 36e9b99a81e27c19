"""Checks and times the kernels that are no convolutions on a GPU: python3 kernels/gpu/operations.py (nvcc, nothing else).

Builds the whole-step driver and the measurements, runs training steps of the fixtures in f32 against PyTorch's numbers (twice, and
three models stacked: the same bytes), in bf16, each kernel at full size twice for equal bytes and timed, and the small step under
compute-sanitizer. Prints one table, writes operations.json into $OUT (or the current folder). A part that fails or takes too long does
not stop the others; the exit status is 1 if any did.
"""

import concurrent.futures
import glob
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOST = ROOT / "kernels" / "host"
FIXTURES = sorted(glob.glob(str(ROOT / "tests" / "fixtures" / "networks" / "*.safetensors")))
OUT = pathlib.Path(os.environ.get("OUT", "."))
BUILD = pathlib.Path(tempfile.mkdtemp())
START, BUDGET = time.time(), 150
parts, lines = {}, []


def tool(name):
    """A CUDA program, also where PATH does not name it."""
    return shutil.which(name) or next(iter(sorted(glob.glob(f"/usr/local/cuda*/bin/{name}"))), None)


def say(line):
    lines.append(line)
    print(line, flush=True)


def run(what, command, limit):
    """Runs a part within its limit; gives (good, output) and keeps both."""
    begin = time.time()
    limit = min(limit, max(3, BUDGET - (begin - START)))
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        good, text = done.returncode == 0, done.stdout + done.stderr
    except subprocess.TimeoutExpired as stopped:
        output = stopped.stdout or b""
        good, text = False, (output.decode() if isinstance(output, bytes) else output) + f"\nstopped after {limit:.0f} s"
    except OSError as error:
        good, text = False, str(error)
    parts[what] = {"good": good, "seconds": round(time.time() - begin, 1), "output": text[-6000:]}
    return good, text


def build(source, name, limit=110):
    flags = ["-std=c++17", "-O2", "-gencode", f"arch=compute_{capability},code=sm_{capability}"]
    return run(f"build {name}", [tool("nvcc") or "nvcc", *flags, "-x", "cu", str(source), "-o", str(BUILD / name)], limit)


def digests(text):
    return re.findall(r"digest (\w+)", text)


good, text = run("device", ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"], 20)
device = text.strip()
found = re.search(r"(\d+)\.(\d+)\s*$", device)
capability = found[1] + found[2] if found else "90"
say(f"# {device}")

with concurrent.futures.ThreadPoolExecutor(2) as pool:
    step = pool.submit(build, HOST / "step.cpp", "step")
    measurements = pool.submit(build, ROOT / "kernels" / "gpu" / "operations.cu", "operations")
    built = step.result()[0], measurements.result()[0]
for name in ("step", "operations"):
    part = parts[f"build {name}"]
    say(f"build {name}: {part['seconds']} s" + ("" if part["good"] else "  FAILED\n" + part["output"][-2000:]))

if built[0]:
    binary = str(BUILD / "step")
    good, text = run("fixtures, f32", [binary, *FIXTURES], 40)
    say(text.rstrip())
    again = run("fixtures, f32, again", [binary, *FIXTURES], 40)[1]
    say(f"the same bytes twice: {digests(text) == digests(again) and len(digests(text)) == len(FIXTURES)}")
    parts["fixtures, f32, again"]["good"] &= digests(text) == digests(again)
    stacked = run("fixtures, f32, 3 models", [binary, *FIXTURES, "--models", "3"], 40)[1]
    say(f"three models stacked, the same bytes as one alone: {digests(text) == digests(stacked)}")
    parts["fixtures, f32, 3 models"]["good"] &= digests(text) == digests(stacked)
    say(run("fixtures, bf16", [binary, *FIXTURES, "--bf16"], 40)[1].rstrip())

results = []
if built[1]:
    good, text = run("measurements", [str(BUILD / "operations")], 60)
    for line in text.splitlines():
        if line.startswith("{"):
            results.append(json.loads(line))
        elif line.strip():
            say(line)
    copied = next((one["gb_s"] for one in results if one["name"].startswith("copy")), None)
    say(f"{'kernel, batch 32, bf16':58} {'ms':>8} {'GB':>7} {'GB/s':>6} {'of copy':>7}  same bytes")
    for one in results:
        share = f"{one['gb_s'] / copied:7.2f}" if copied else "      ?"
        say(f"{one['name']:58} {one['ms']:8.3f} {one['bytes'] / 1e9:7.3f} {one['gb_s']:6.0f} {share}  {'yes' if one['same'] else 'NO'}")
    parts["measurements"]["good"] &= bool(results) and all(one["same"] for one in results)

if built[0] and tool("compute-sanitizer"):
    small = [path for path in FIXTURES if path.endswith(("/reference-2d.safetensors", "/target-3d.safetensors"))]
    for check in ("memcheck", "racecheck"):
        good, text = run(f"compute-sanitizer {check}", [tool("compute-sanitizer"), "--tool", check, "--error-exitcode", "9", str(BUILD / "step"), *small], 45)
        summary = [line for line in text.splitlines() if "SUMMARY" in line]
        say(f"compute-sanitizer {check}: {'; '.join(summary) or text[-300:].strip()}")
else:
    say("compute-sanitizer: not run")

failed = [name for name, part in parts.items() if not part["good"]]
say(f"{round(time.time() - START)} s in all; failed: {', '.join(failed) or 'nothing'}")
OUT.mkdir(parents=True, exist_ok=True)
(OUT / "operations.json").write_text(json.dumps({"device": device, "kernels": results, "parts": parts, "table": lines}, indent=1))
sys.exit(1 if failed else 0)

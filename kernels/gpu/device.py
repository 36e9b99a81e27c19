"""Compiles kernels/*.cu, launches them on PyTorch's stream and times them: what the scripts of this folder share.

Needs nvcc (with a host compiler) and PyTorch with CUDA; no network.
"""
import ctypes as C
import json
import os
import statistics
import subprocess
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
KERNELS = os.path.join(ROOT, "kernels")
OUT = os.environ.get("OUT") or os.path.join(ROOT, "out")


def architecture():
    import torch

    major, minor = torch.cuda.get_device_capability()
    return f"{major}{minor}" + ("a" if major == 9 else "")


def build(sources, arch):
    """Starts nvcc for every source at once; {source: None or what the compiler said}. Cubins lie in OUT/build."""
    folder = os.path.join(OUT, "build")
    os.makedirs(folder, exist_ok=True)
    running = {}
    for source in sources:
        command = ["nvcc", "-std=c++17", "-cubin", "-Xptxas=-v", "-lineinfo", f"-gencode=arch=compute_{arch},code=sm_{arch}",
                   "-o", os.path.join(folder, source + ".cubin"), os.path.join(KERNELS, source + ".cu")]
        log = open(os.path.join(folder, source + ".log"), "w+")
        running[source] = (subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT), log)
    said = {}
    for source, (process, log) in running.items():
        code = process.wait()
        log.seek(0)
        said[source] = log.read() if code else None
        log.close()
    return said


def geometry():
    """{name: how it is launched}, from the sources themselves."""
    program = os.path.join(OUT, "build", "geometry")
    if not os.path.exists(program):
        os.makedirs(os.path.dirname(program), exist_ok=True)
        subprocess.run([os.environ.get("CXX", "g++"), "-std=c++17", "-w", "-O0", os.path.join(KERNELS, "host", "geometry.cpp"), "-o", program], check=True)
    lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    return {row["name"]: row for row in map(json.loads, lines)}


def ok(code, what=""):
    if code:
        raise RuntimeError(f"CUDA driver error {code} {what}")


class Module:
    """The kernels of one source."""

    def __init__(self, source):
        import torch

        torch.zeros(1, device="cuda")
        self.driver = C.CDLL("libcuda.so.1")
        self.module = C.c_void_p()
        with open(os.path.join(OUT, "build", source + ".cubin"), "rb") as f:
            ok(self.driver.cuModuleLoadData(C.byref(self.module), f.read()), source)

    def launcher(self, name, grid, threads, shared, *arguments):
        """A function that launches the kernel. Arguments: ctypes values or structures."""
        import torch

        function = C.c_void_p()
        ok(self.driver.cuModuleGetFunction(C.byref(function), self.module, name.encode()), name)
        if shared > 48 << 10:
            ok(self.driver.cuFuncSetAttribute(function, 8, shared), name)  # MAX_DYNAMIC_SHARED_SIZE_BYTES
        kept = list(arguments)
        pointers = (C.c_void_p * len(kept))(*[C.addressof(a) for a in kept])
        stream = C.c_void_p(torch.cuda.current_stream().cuda_stream)
        grid = tuple(grid) + (1,) * (3 - len(grid))

        def launch():
            ok(self.driver.cuLaunchKernel(function, *grid, threads, 1, 1, shared, stream, pointers, None), name)

        launch.kept = kept
        return launch


def pointer(tensor):
    return None if tensor is None else tensor.data_ptr()


def structure(name, pointers, numbers):
    """A kernel's parameter block: pointers, then ints."""
    return type(name, (C.Structure,), {"_fields_": [(n, C.c_void_p) for n in pointers] + [(n, C.c_int) for n in numbers]})


def timed(f, most=0.6, least=5, limit=25):
    """Median milliseconds of a call by device events, warmed up."""
    import torch

    for _ in range(3):
        f()
    torch.cuda.synchronize()
    took, start = [], time.time()
    while len(took) < least or (time.time() - start < most and len(took) < limit):
        b, e = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        b.record()
        f()
        e.record()
        torch.cuda.synchronize()
        took.append(b.elapsed_time(e))
    return statistics.median(took)


def same_twice(launch, results):
    """Runs it twice into poisoned results; (same bytes, numbers not finite)."""
    import torch

    copies = []
    for _ in range(2):
        for r in results:
            r.fill_(float("nan"))
        launch()
        torch.cuda.synchronize()
        copies.append([r.clone() for r in results])
    same = all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in zip(*copies))
    return same, sum(int((~torch.isfinite(r)).sum()) for r in results)


def error(got, want):
    """‖got − want‖ / ‖want‖; NaN where anything is."""
    got, want = got.double().cpu().flatten(), want.double().cpu().flatten()
    return float((got - want).norm() / want.norm())

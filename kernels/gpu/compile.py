"""Compiles every kernel through NVRTC for sm_80 and sm_90a, without a GPU: python3 kernels/gpu/compile.py [FOLDER]

FOLDER holds lib/libnvrtc.so.13 (wheel nvidia-cuda-nvrtc==13.0.88: site-packages/nvidia/cu13); without it the loader must find
it. libnvrtc-builtins must be found too: set LD_LIBRARY_PATH to FOLDER/lib. Exits with 1 if any source does not compile or warns.
"""

import ctypes
import glob
import os
import pathlib
import sys
import time

KERNELS = pathlib.Path(__file__).resolve().parents[1]
lib = ctypes.CDLL(glob.glob(sys.argv[1] + "/lib/libnvrtc.so.13")[0] if len(sys.argv) > 1 else "libnvrtc.so.13")


def compiled(source, arch):
    """(bytes of the cubin or 0, what the compiler said)."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    lib.nvrtcCreateProgram(ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None)
    options = [f"--gpu-architecture={arch}".encode(), b"--std=c++17", f"--include-path={KERNELS}".encode()]
    code = lib.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetProgramLog(program, log)
    if not code:
        lib.nvrtcGetCUBINSize(program, ctypes.byref(size))
    lib.nvrtcDestroyProgram(ctypes.byref(program))
    return 0 if code else size.value, log.value.decode().strip()


failed = False
for source in sorted(KERNELS.glob("*.cu")):
    if source.name == "conv_wide.cu":
        arches = ["sm_90a"]  # warpgroups
    else:
        arches = ["sm_80", "sm_90a"]
    for arch in arches:
        start = time.time()
        size, log = compiled(source, arch)
        failed |= not size or bool(log)
        print(f"{source.name:16} {arch:7} {size or 'FAILED'} bytes, {time.time() - start:.1f} s", log and f"\n{log}", flush=True)
sys.exit(failed)

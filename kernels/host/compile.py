"""Compiles every kernel through NVRTC for sm_80 and sm_90a, no GPU needed: python3 kernels/host/compile.py [FOLDER]

FOLDER holds libnvrtc.so.13 (wheel nvidia-cuda-nvrtc: site-packages/nvidia/cu13/lib); by default where the wheel of this Python has it.
Without the library it says so and ends well. The sources must need nothing but each other: NVRTC has no CUDA headers.
"""
import ctypes
import glob
import os
import sys
import sysconfig

KERNELS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
folders = sys.argv[1:2] or [os.path.join(sysconfig.get_paths()["purelib"], "nvidia", "cu13", "lib")]
found = glob.glob(os.path.join(folders[0], "libnvrtc.so.1*"))
if not found:
    print(f"skipped: no libnvrtc in {folders[0]} (pip install nvidia-cuda-nvrtc==13.0.88)")
    sys.exit(0)
for builtins in glob.glob(os.path.join(folders[0], "libnvrtc-builtins.so*")):
    ctypes.CDLL(builtins, mode=ctypes.RTLD_GLOBAL)
nvrtc = ctypes.CDLL(found[0])


def compiles(source, architecture):
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    with open(source, "rb") as f:
        nvrtc.nvrtcCreateProgram(ctypes.byref(program), f.read(), os.path.basename(source).encode(), 0, None, None)
    options = [f"--gpu-architecture={architecture}".encode(), b"--std=c++17", b"--include-path=" + KERNELS.encode()]
    code = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    said = log.value.decode().strip()
    nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
    serialized = "serialized" in said  # products of a warpgroup that wait for each other: right, but slow
    print(f"{os.path.basename(source):16} {architecture:8} {'failed' if code else f'{size.value} bytes'}{' SERIALIZED' if serialized else ''}", flush=True)
    if code or said:
        print(said)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return not code and not serialized


# All of them, not only up to the first that fails.
results = [compiles(source, architecture) for source in sorted(glob.glob(os.path.join(KERNELS, "*.cu"))) for architecture in ("sm_80", "sm_90a")]
sys.exit(not all(results))

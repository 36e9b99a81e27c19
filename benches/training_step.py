"""The peer of `benches/training_step.rs`: python benches/training_step.py 2d|2d-target|3d|3d-target BATCH STEPS [THREADS]"""

import resource
import statistics
import sys
import time

import torch

from networks import Vae

kind, batch, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(int(sys.argv[4]) if len(sys.argv) > 4 else 2)
target = kind.endswith("target")
size = (64, 160, 96) if kind.startswith("3d") else (160, 96)
model = Vae(size, [32, 64, 128, 256, 512], 512, *((1, 2, 24) if target else (2,)))
adam = torch.optim.Adam(model.parameters(), 2e-4)
x = torch.rand(batch, 1 if target else 2, *size)
condition = (torch.rand(batch, 2, *size), torch.eye(24)[torch.arange(batch) % 24]) if target else ()
took = []
for _ in range(steps + 1):
    start = time.perf_counter()
    adam.zero_grad()
    sum(model.losses(x, torch.randn(1, batch, 512), *condition)).backward()
    adam.step()
    took.append(time.perf_counter() - start)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(f"{kind} batch {batch}: median {statistics.median(took[1:]):.3f} s, least {min(took[1:]):.3f} s of {steps} steps; "
      f"peak {peak:.2f} GiB; {sum(p.numel() for p in model.parameters())} parameters")

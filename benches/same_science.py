"""Trains MR and MT in PyTorch on the sets and with the settings of `benches/same_science.toml`, and holds the best validation
ELBO of each seed against statcell's: python benches/same_science.py TRAIN VALIDATION METRICS

TRAIN and VALIDATION are folders of `statcell get … images.train` and `images.validation`; METRICS holds those of
`statcell get … 'shape[seed=1].metrics'` and so on, in folders shape-1 and so on. `benches/same_science.sh` makes all of them.
Needs torch==2.11.0, tifffile and numpy.
"""

import csv
import glob
import statistics
import sys
import time

import numpy
import tifffile
import torch

from networks import Vae

CHANNELS, LATENT, BATCH, EPOCHS, SAMPLES, SEEDS = [8, 16, 32, 64], 16, 16, 30, 10, [1, 2, 3, 4]


def cells(folder):
    """Images (N, C, Y, X) in [0, 1]: membrane, DNA, structure; and each cell's structure."""
    with open(f"{folder}/cells.csv") as file:
        rows = list(csv.DictReader(file))
    images = [tifffile.imread(f"{folder}/images/{row['cell_id']}.ome.tif")[:3] for row in rows]
    return torch.tensor(numpy.stack(images).astype("float32") / 65535), [row["structure"] for row in rows]


def batches(order):
    """Whole batches and the rest; a rest of one cell joins the batch before it."""
    parts = list(order.split(BATCH))
    if len(parts) > 1 and len(parts[-1]) == 1:
        last = parts.pop()
        parts[-1] = torch.cat([parts[-1], last])
    return parts


def train(train_set, validation_set, target, seed):
    """The highest validation ELBO of all epochs."""
    torch.manual_seed(seed)
    names = sorted(set(train_set[1]))

    def arguments(images, structures):
        if not target:
            return (images[:, :2],)
        label = torch.eye(len(names))[torch.tensor([names.index(name) for name in structures])]
        return images[:, 2:], images[:, :2], label

    data, held = arguments(*train_set), arguments(*validation_set)
    model = Vae(data[0].shape[2:], CHANNELS, LATENT, *((1, 2, len(names)) if target else (2,)))
    adam = torch.optim.Adam(model.parameters(), 1e-3)
    noise = torch.randn(SAMPLES, len(held[0]), LATENT)
    best = -numpy.inf
    for _ in range(EPOCHS):
        model.train()
        for batch in batches(torch.randperm(len(data[0]))):
            x, *condition = (values[batch] for values in data)
            adam.zero_grad()
            sum(model.losses(x, torch.randn(1, len(batch), LATENT), *condition)).backward()
            adam.step()
        model.eval()
        with torch.no_grad():
            x, *condition = held
            best = max(best, -float(sum(model.losses(x, noise, *condition))))
    return best


def ours(metrics, name, seed):
    [path] = glob.glob(f"{metrics}/{name}-{seed}/**/metrics.csv", recursive=True)
    with open(path) as file:
        return max(float(row["validation_elbo"]) for row in csv.DictReader(file) if row["validation_elbo"])


def main():
    train_folder, validation_folder, metrics = sys.argv[1:4]
    torch.set_num_threads(2)
    train_set, validation_set = cells(train_folder), cells(validation_folder)
    print(f"{len(train_set[1])} training cells, {len(validation_set[1])} validation cells, {EPOCHS} epochs")
    print("| model | | " + " | ".join(f"seed {seed}" for seed in SEEDS) + " | mean | standard deviation |")
    for name, target in [("shape", False), ("structure", True)]:
        start = time.perf_counter()
        theirs = [train(train_set, validation_set, target, seed) for seed in SEEDS]
        took = time.perf_counter() - start
        for who, values in [("statcell", [ours(metrics, name, seed) for seed in SEEDS]), ("PyTorch", theirs)]:
            numbers = " | ".join(f"{value:.2f}" for value in values)
            print(f"| {name} | {who} | {numbers} | {statistics.mean(values):.2f} | {statistics.stdev(values):.2f} |")
        print(f"PyTorch: {took:.0f} s for {len(SEEDS)} trainings")


main()

"""Prints simulated against published quantiles as Markdown: python population.py interphase/truth.csv mitosis/truth.csv

Published: Viana et al. 2023, shape-matched sets of the feature explorer; 4,478 interphase cells away from the colony's edge, and 2,201
early-mitotic cells.
"""

import csv
import math
import statistics
import sys

PUBLISHED = {
    "cell_volume_um3": ("cell volume, µm³", [1242, 1599, 1898, 2266, 2879], 0.252),
    "cell_height_um": ("cell height, µm", [5.8, 7.9, 9.1, 10.6, 12.9], 0.232),
    "nucleus_volume_um3": ("nuclear volume, µm³", [331, 457, 552, 661, 835], 0.297),
    "nucleus_height_um": ("nuclear height, µm", [4.1, 5.5, 6.5, 7.6, 9.1], 0.232),
}
CORRELATIONS = [
    ("cell_volume_um3", "nucleus_volume_um3", 0.85),
    ("cell_volume_um3", "cell_height_um", 0.40),
    ("cell_height_um", "nucleus_height_um", 0.91),
]
MITOSIS = [
    ("prophase", "cell_volume_um3", 2958),
    ("prophase", "nucleus_volume_um3", 671),
    ("early-prometaphase", "cell_volume_um3", 2970),
    ("early-prometaphase", "nucleus_volume_um3", 171),
    ("early-prometaphase", "cell_height_um", 10.6),
]


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def column(rows, name):
    return [float(row[name]) for row in rows]


def quantile(values, share):
    values = sorted(values)
    place = share * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def pearson(a, b):
    return statistics.correlation([math.log(v) for v in a], [math.log(v) for v in b])


interphase, mitosis = (read(path) for path in sys.argv[1:3])
print(f"{len(interphase)} interphase cells; simulated / published (difference)\n")
print("| | 5 % | 25 % | median | 75 % | 95 % | sd of the logarithm |")
print("|---|---|---|---|---|---|---|")
worst = 0
for name, (title, published, spread) in PUBLISHED.items():
    values = column(interphase, name)
    cells = []
    for share, expected in zip((0.05, 0.25, 0.5, 0.75, 0.95), published):
        found = quantile(values, share)
        worst = max(worst, abs(found / expected - 1))
        digits = 0 if expected > 100 else 1
        cells.append(f"{found:.{digits}f} / {expected} ({found / expected - 1:+.0%})")
    found = statistics.pstdev([math.log(v) for v in values])
    print(f"| {title} | {' | '.join(cells)} | {found:.3f} / {spread} |")
print(f"\nLargest difference of a quantile: {worst:.1%}\n")
print("| correlation of logarithms | simulated | published |")
print("|---|---|---|")
for a, b, expected in CORRELATIONS:
    names = [PUBLISHED[name][0].split(",")[0] for name in (a, b)]
    print(f"| {names[0]} with {names[1]} | {pearson(column(interphase, a), column(interphase, b)):.2f} | {expected} |")
print("\n| median in mitosis | simulated | published |")
print("|---|---|---|")
for stage, name, expected in MITOSIS:
    rows = [row for row in mitosis if row["stage"] == stage]
    found = statistics.median(column(rows, name))
    print(f"| {stage}, {PUBLISHED[name][0]} ({len(rows)} cells) | {found:.4g} | {expected} ({found / expected - 1:+.0%}) |")

"""The steps of segmentation on the real field by SciPy and scikit-image: how long they take, and how far the results agree.

Run by benches/segmentation.sh, with numpy, scipy, scikit-image, tifffile and imagecodecs installed:
python benches/segmentation.py FOLDER, where the folder holds what `cargo bench --bench segmentation -- FOLDER` left.
"""

import pathlib
import sys
import time

import numpy as np
import scipy.ndimage
import skimage.segmentation
import tifffile

folder = pathlib.Path(sys.argv[1])
ours = {line.split("\t")[0]: line.split("\t")[1:] for line in (folder / "seconds.tsv").read_text().splitlines()}
VOXEL_UM = (0.29, 0.26, 0.26)


def volume(name):
    return tifffile.imread(folder / f"{name}.ome.tif")


def compare(what, goal, repeats, function):
    """By the clock, and by the time of the processor, which does not count what else the machine does but adds up our cores."""
    best = [np.inf, np.inf]
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        result = function()
        best = [min(best[0], time.perf_counter() - start[0]), min(best[1], time.process_time() - start[1])]
    clock, cores = (there / float(here) for here, there in zip(ours[what], best))
    print(f"{what}: {best[0] * 1e3:.0f} ms, {best[1] * 1e3:.0f} ms of processor", end="")
    print(f": here {clock:.1f} times as fast, {cores:.1f} times less processor (goal {goal})", flush=True)
    return result


dna, smooth, start = volume("dna"), volume("smooth"), volume("start")
assert (compare("median", 8, 1, lambda: scipy.ndimage.median_filter(dna, size=3, mode="nearest")) == smooth).all()
away = compare("distance", 8, 2, lambda: scipy.ndimage.distance_transform_edt(start, sampling=VOXEL_UM))
assert np.allclose(away, volume("distance"), atol=1e-4)
landscape, seeds = volume("landscape"), volume("seeds").astype(np.int32)
labels = compare("watershed", 3, 2, lambda: skimage.segmentation.watershed(landscape, seeds))
print(f"  the same label in {(labels == volume('labels')).mean():.2%} of the voxels")
steps = int(ours["iterations"][0])
inside = compare(
    "contours", 20, 1, lambda: skimage.segmentation.morphological_chan_vese(smooth, steps, init_level_set=start, smoothing=1)
)
both = (inside > 0) & (volume("inside") > 0)
either = (inside > 0) | (volume("inside") > 0)
print(f"  {steps} iterations of both; one mean there, local means here: overlap {both.sum() / either.sum():.2f}")

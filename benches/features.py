"""The features of real cells by SciPy and scikit-image: how long they take, and that they agree with the fixtures.

Run from the project's folder, with numpy, scipy, scikit-image, tifffile and imagecodecs installed: python benches/features.py
"""

import json
import time

import numpy as np
import scipy.ndimage
import scipy.stats
import skimage.filters
import tifffile

FOLDER = "tests/fixtures/features"
REPEATS = 5


def features(image):
    image = (image / image.max() * 255).astype(np.uint8)
    inside = image > 0
    area = int(inside.sum())
    circumference = int((scipy.ndimage.distance_transform_edt(inside) == 1).sum())
    values = image[inside].astype(float)
    return {
        "area": area,
        "circumference": circumference,
        "sphericity": np.pi ** (1 / 3) * (6 * area) ** (2 / 3) / circumference,
        "median": np.median(values),
        "mean": values.mean(),
        "std": values.std(),
        "entropy": scipy.stats.entropy(np.bincount(image[inside])),
    }


def timed(what, images, function):
    best = np.inf
    for _ in range(REPEATS):
        start = time.perf_counter()
        for image in images:
            function(image)
        best = min(best, time.perf_counter() - start)
    print(f"{what}: {best * 1e3 / len(images):.3f} ms a channel")


volumes = []
for cell in json.load(open(f"{FOLDER}/features.json")):
    stack = tifffile.imread(f"{FOLDER}/cell-{cell['cell']:02d}.tif")
    for name, volume in zip(["cell", "nucleus"], stack):
        volumes.append(volume)
        for key, image in [(f"{name}_3d", volume), (f"{name}_2d", volume.max(0))]:
            for feature, value in features(image).items():
                assert np.isclose(value, cell[key][feature], rtol=1e-9, atol=0), (cell["cell"], key, feature)
flat = [volume.max(0) for volume in volumes]
timed("3D features", volumes, features)
timed("2D features", flat, features)
timed("2D threshold, block 199", flat, lambda image: image > skimage.filters.threshold_local(image, 199, method="mean"))

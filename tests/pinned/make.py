"""Makes aligned.tif, a cell in the form of the paper's aligned images: six channels of 6 x 12 x 8 voxels, one page per plane."""

import struct

Z, Y, X = 6, 12, 8


def block(margin):
    return [int(all(m <= at < side - m for at, side, m in zip((z, y, x), (Z, Y, X), margin)))
            for z in range(Z) for y in range(Y) for x in range(X)]


nucleus, cell = block((2, 4, 3)), block((1, 2, 1))
channels = [nucleus, cell, [200 * v for v in nucleus], [51 * v for v in cell],
            [(i * 37 % 200) * v for i, v in enumerate(cell)], [9] * len(cell)]
pixels = bytes(value for channel in channels for value in channel)
pages, size = 6 * Z, Y * X
tags = 9
with open("aligned.tif", "wb") as out:
    out.write(struct.pack("<2sHI", b"II", 42, 8 + len(pixels)))
    out.write(pixels)
    for page in range(pages):
        out.write(struct.pack("<H", tags))
        for tag, kind, value in [(256, 3, X), (257, 3, Y), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8 + page * size),
                                 (277, 3, 1), (278, 3, Y), (279, 4, size)]:
            out.write(struct.pack("<HHI", tag, kind, 1) + struct.pack("<I", value))
        last = page == pages - 1
        out.write(struct.pack("<I", 0 if last else 8 + len(pixels) + (page + 1) * (2 + 12 * tags + 4)))

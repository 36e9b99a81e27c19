"""Our convolution kernels on this GPU: right (against f64), deterministic, and how fast beside cuDNN through PyTorch.

    python3 kernels/gpu/convolutions.py [--budget SECONDS] [--only PART,…] [--no-times]

Each part runs in a process of its own with a time limit: a kernel that fails or hangs costs its part only. Prints one table;
writes OUT/convolutions.json (OUT: the environment variable, or ./out). "ours" contains what is fused in: normalisation and ReLU of
the input, bias, 1 / sigma, moments; "cuDNN" is the convolution alone.
"""
import argparse
import ctypes as C
import json
import math
import os
import subprocess
import sys
import time

import device as D

BATCH = 32
FULL, HALF, QUARTER = (64, 160, 96), (32, 80, 48), (16, 40, 24)  # Z, Y, X
SMALL = (5, 9, 11)
# part: (seconds it may take, {kernel: size at which it is timed})
PARTS = {
    "probe": (25, {}),
    "thin": (70, {}),
    "wide": (80, {}),
    "grouped": (50, {"grouped_up_64_64": QUARTER, "grouped_up_32_32": HALF, "grouped_64_64": HALF, "grouped_64_32": HALF, "grouped_32_64": HALF, "grouped_32_32": HALF}),
    "plain": (50, {}),
    "wide2d": (50, {}),
    "weights": (60, {}),  # all gradients of the geometry
    "tile": (60, {"down_64_64": HALF, "down_32_32": FULL, "plain_64_64": HALF, "up_64_64": QUARTER, "plain_64_32": HALF, "up_32_32": HALF, "plain_32_32": HALF, "plain_32_64": HALF}),
}

Forward = D.structure("Forward", ("x", "scale", "shift", "w", "bias", "factor", "y", "moments"), ("z", "y_size", "x_size"))
Gradient = D.structure("Gradient", ("x", "scale", "shift", "dy", "partial"), ("images", "z", "y_size", "x_size"))


class Wide(C.Structure):
    _fields_ = ([(n, C.c_void_p) for n in ("x", "affine", "w", "bias", "factor", "y", "moments")] + [(n, C.c_longlong) for n in ("pitch", "factor_pitch")]
                + [(n, C.c_int) for n in ("images", "inputs", "outputs", "flipped", "z", "y_size", "x_size")])


Thin = D.structure("Thin", ("dy", "w", "factor", "x", "scale", "shift", "mean", "inverse", "dx", "sums", "partial"), ("images", "segment", "z", "y_size", "x_size"))


class PlainApply(C.Structure):
    _fields_ = ([(n, C.c_void_p) for n in ("x", "affine", "w", "bias", "factor", "y")] + [(n, C.c_longlong) for n in ("pitch", "factor_pitch")]
                + [(n, C.c_int) for n in ("images", "inputs", "outputs")] + [(n, C.c_int * 3) for n in ("inside", "outside", "kernel", "stride", "padding")]
                + [(n, C.c_int) for n in ("spread", "turned", "accumulate")])


class PlainWeights(C.Structure):
    _fields_ = ([(n, C.c_void_p) for n in ("moving", "still", "moving_affine", "still_affine", "partial")]
                + [(n, C.c_int) for n in ("images", "moving_channels", "still_channels")]
                + [(n, C.c_int * 3) for n in ("moving_size", "still_size", "kernel", "stride", "padding")])


class PlainSum(C.Structure):
    _fields_ = ([(n, C.c_void_p) for n in ("partial", "factor", "dw")] + [(n, C.c_longlong) for n in ("pitch", "factor_pitch")]
                + [(n, C.c_int) for n in ("splits", "taps", "rows", "columns", "turned")])


def row(**values):
    print("ROW " + json.dumps(values), flush=True)


def guarded(name, f):
    try:
        f()
    except Exception as problem:  # noqa: BLE001 (the next kernel shall run)
        row(kernel=name, failed=str(problem).splitlines()[0][:300])
    import torch

    torch.cuda.empty_cache()


def random(*shape, scale=1.0):
    import torch

    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * scale


def affine(channels):
    import torch

    return torch.rand(channels, device="cuda") + 0.5, torch.randn(channels, device="cuda") * 0.3


def activated(x, scale, shift):
    """relu(x scale + shift) as a kernel rounds it: one fused multiply-add, then bf16."""
    import torch

    return torch.relu((x.double() * scale.double() + shift.double()).float()).bfloat16()


def channels_first(x):
    return x.permute(0, 4, 1, 2, 3)


def larger(a, b):
    """The larger error; NaN wins."""
    return b if not b <= a else a


WINDOW = {"PLAIN": (3, 1), "UP": (4, 2), "DOWN": (4, 2)}


def convolve(kind, x, w):
    """x: images, channels, …; w as we keep it: taps (3 axes), inputs, outputs."""
    from torch.nn import functional as F

    if kind == "UP":
        return F.conv_transpose3d(x, w.permute(3, 4, 0, 1, 2), stride=2, padding=1)
    return F.conv3d(x, w.permute(4, 3, 0, 1, 2), stride=WINDOW[kind][1], padding=1)


def backward(kind, dy, x, w, mask):
    """PyTorch's gradients; w in its own order."""
    import torch

    stride = WINDOW[kind][1]
    return torch.ops.aten.convolution_backward(dy, x, w, None, [stride] * 3, [1] * 3, [1] * 3, kind == "UP", [0] * 3, 1, mask)


def torch_weights(kind, w):
    import torch

    order = (3, 4, 0, 1, 2) if kind == "UP" else (4, 3, 0, 1, 2)
    return w.permute(*order).contiguous(memory_format=torch.channels_last_3d)


def grown(kind, size):
    return tuple(2 * s if kind == "UP" else s // 2 if kind == "DOWN" else s for s in size)


def forward_case(module, g, images, size, fused, time_it):
    import torch

    kind, cin, cout = g["kind"], g["inputs"], g["outputs"]
    side = WINDOW[kind][0]
    out = grown(kind, size)
    over = size if kind != "DOWN" else out  # what the tiles cover
    x = random(images, *size, cin)
    w = random(side, side, side, cin, cout, scale=(cin * side**3 / (8 if kind == "UP" else 1)) ** -0.5)
    scale, shift = affine(cin) if fused else (None, None)
    bias, factor = torch.randn(cout, device="cuda"), torch.tensor([0.7], device="cuda")
    tz, ty, tx = g["tile"]
    grid = (math.ceil(over[2] / tx), math.ceil(over[1] / ty), images * math.ceil(over[0] / tz))
    y = torch.empty(images, *out, cout, device="cuda", dtype=torch.bfloat16)
    moments = torch.empty(math.prod(grid), 2, cout, device="cuda")
    p = D.pointer
    launch = module.launcher(g["name"], grid, g["threads"], g["shared"],
                             Forward(p(x), p(scale), p(shift), p(w), p(bias), p(factor), p(y), p(moments), *size))
    same, unwritten = D.same_twice(launch, [y, moments])
    xa = activated(x, scale, shift) if fused else x
    values = dict(kernel=g["name"], images=images, size=size, fused=fused, same=same, unwritten=unwritten)
    stored = y.double().reshape(-1, cout)
    values["moments"] = D.error(moments.double().sum(0), torch.stack([stored.sum(0), (stored * stored).sum(0)]))
    if not time_it:
        want = convolve(kind, channels_first(xa).double().cpu(), w.double().cpu()) * 0.7 + bias.double().cpu().view(1, -1, 1, 1, 1)
        values["error"] = D.error(channels_first(y), want)
        values["good"] = same and not unwritten and values["error"] < 3e-3 and values["moments"] < 1e-5
        return row(**values)
    del stored
    torch.backends.cudnn.allow_tf32 = False
    last = channels_first(xa[-1:]).float().contiguous()
    want = convolve(kind, last, w.float()) * 0.7 + bias.view(1, -1, 1, 1, 1)
    values["error"] = D.error(channels_first(y[-1:]), want)
    del want, last
    ms = D.timed(launch)
    xc, wc = channels_first(xa), torch_weights(kind, w)
    stride = WINDOW[kind][1]
    theirs = D.timed(lambda: torch.ops.aten.convolution(xc, wc, None, [stride] * 3, [1] * 3, [1] * 3, kind == "UP", [0] * 3, 1))
    flop = 2 * images * math.prod(size if kind != "DOWN" else out) * side**3 * cin * cout
    values.update(ms=ms, cudnn_ms=theirs, tflops=flop / ms / 1e9, tb_s=2 * (x.numel() + y.numel()) / ms / 1e9)
    values["good"] = same and not unwritten and values["error"] < 3e-3 and values["moments"] < 1e-5
    row(**values)


def wide_case(module, g, models, images, cin, cout, size, fused, flipped, time_it):
    """size: of the input (Z, Y, X; Z is 1 in 2D)."""
    import torch

    kind, flat = g["kind"], g["dimensions"] == 2
    side, stride = WINDOW[kind]
    window = lambda v, of_flat: [of_flat if flat else v, v, v]
    k, s, pad = window(side, 1), window(stride, 1), window(1, 0)
    out = tuple(n // step for n, step in zip(size, s))
    x = random(models, images, *size, cin)
    w = random(models, *k, cin, cout, scale=(cin * math.prod(k)) ** -0.5)
    affine_, bias, factor = None, torch.randn(models, w[0].numel(), device="cuda"), torch.rand(models, device="cuda") + 0.5
    if fused:
        affine_ = torch.stack([torch.rand(models, cin, device="cuda") + 0.5, torch.randn(models, cin, device="cuda") * 0.3], 1).contiguous()
    tz, ty, tx = g["tile"]
    covered = (out[1], images, out[2]) if flat else out
    tiles = math.ceil(covered[0] / tz) * math.ceil(covered[1] / ty) * math.ceil(covered[2] / tx) * (1 if flat else images)
    columns = cout // g["columns"]
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    blocks = min(tiles, max(1, processors // (columns * models))) if time_it else min(tiles, 3)
    y = torch.empty(models, images, *out, cout, device="cuda", dtype=torch.bfloat16)
    moments = torch.empty(models, tiles, 2, cout, device="cuda")
    p = D.pointer
    launch = module.launcher(g["name"], (blocks, columns, models), g["threads"], g["shared"],
                             Wide(p(x), p(affine_), p(w), p(bias), p(factor), p(y), p(moments), w[0].numel(), 1, images, cin, cout, flipped, *size))
    same, unwritten = D.same_twice(launch, [y, moments])
    values = dict(kernel=f"{g['name']} {cin}->{cout}" + (f" x{models}" if models > 1 else ""), images=images, size=size, fused=fused, flipped=flipped, same=same,
                  unwritten=unwritten)
    worst = worst_moments = 0.0
    for m in range(models):
        stored = y[m].double().reshape(-1, cout)
        worst_moments = larger(worst_moments, D.error(moments[m].double().sum(0), torch.stack([stored.sum(0), (stored * stored).sum(0)])))
        del stored
        if time_it and m % 8:
            continue
        some = x[m][-1:] if time_it else x[m]
        xa = activated(some, affine_[m, 0], affine_[m, 1]) if fused else some
        wm = w[m].flip(0, 1, 2) if flipped else w[m]
        wide = (lambda t: t.float()) if time_it else (lambda t: t.double().cpu())
        torch.backends.cudnn.allow_tf32 = False
        want = torch.ops.aten.convolution(channels_first(wide(xa)).contiguous(), wide(wm).permute(4, 3, 0, 1, 2).contiguous(), None, s, pad, [1] * 3, False, [0] * 3, 1)
        want = want * float(factor[m]) + wide(bias[m, :cout]).view(1, -1, 1, 1, 1)
        worst = larger(worst, D.error(channels_first(y[m][-1:] if time_it else y[m]), want))
    values.update(error=worst, moments=worst_moments, good=same and not unwritten and worst < 3e-3 and worst_moments < 1e-5)
    if time_it:
        ms = D.timed(launch)
        theirs = None
        if models == 1:
            xc, wc = channels_first(activated(x[0], affine_[0, 0], affine_[0, 1]) if fused else x[0]), torch_weights("PLAIN", w[0])
            if flat:
                xc, wc = xc.squeeze(2), wc.squeeze(2).contiguous(memory_format=torch.channels_last)
            d = 2 if flat else 3
            theirs = D.timed(lambda: torch.ops.aten.convolution(xc, wc, None, s[-d:], pad[-d:], [1] * d, False, [0] * d, 1))
        flop = 2 * models * images * math.prod(out) * math.prod(k) * cin * cout
        values.update(ms=ms, cudnn_ms=theirs, tflops=flop / ms / 1e9, tb_s=2 * (x.numel() + y.numel()) / ms / 1e9)
    row(**values)


def gradient_case(module, g, images, size, splits, time_it):
    import torch

    kind, cin, cout, side = g["kind"], g["inputs"], g["outputs"], WINDOW[g["kind"]][0]
    x, dy = random(images, *size, cin), random(images, *grown(kind, size), cout)
    scale, shift = affine(cin)
    count = side**3 * cin * cout
    partial, dw = torch.empty(splits, count, device="cuda"), torch.empty(count, device="cuda")
    p = D.pointer
    first = module.launcher(g["name"], (splits, g["parts"], g["classes"]), g["threads"], g["shared"],
                            Gradient(p(x), p(scale), p(shift), p(dy), p(partial), images, *size))
    second = module.launcher("sum_splits", (math.ceil(count / 256),), 256, 0, C.c_void_p(p(partial)), C.c_void_p(p(dw)), C.c_int(splits),
                             C.c_int(count), C.c_float(1))

    def launch():
        first()
        second()

    same, unwritten = D.same_twice(launch, [partial, dw])
    xa = activated(x, scale, shift)
    values = dict(kernel=g["name"], images=images, size=size, splits=splits, same=same, unwritten=unwritten)
    empty = torch.empty(*((cin, cout) if kind == "UP" else (cout, cin)), side, side, side)
    order = (2, 3, 4, 0, 1) if kind == "UP" else (2, 3, 4, 1, 0)
    if not time_it:
        want = backward(kind, channels_first(dy).double().cpu(), channels_first(xa).double().cpu(), empty.double(), [False, True, False])[1]
        values["error"] = D.error(dw, want.permute(*order).reshape(-1))
        values["good"] = same and not unwritten and values["error"] < 1e-5
        return row(**values)
    ms = D.timed(launch)
    xc, dc = channels_first(xa), channels_first(dy)
    wc = empty.cuda().bfloat16().contiguous(memory_format=torch.channels_last_3d)
    peer = lambda: backward(kind, dc, xc, wc, [False, True, False])[1]
    values["error"] = D.error(dw, peer().permute(*order).reshape(-1))  # against bf16 results: their rounding
    theirs = D.timed(peer)
    flop = 2 * images * math.prod(size) * side**3 * cin * cout
    values.update(ms=ms, cudnn_ms=theirs, tflops=flop / ms / 1e9, tb_s=2 * (x.numel() + dy.numel()) / ms / 1e9)
    values["good"] = same and not unwritten and values["error"] < 1e-2
    row(**values)


def thin_case(module, g, images, size, masked, segment, blocks, time_it):
    import torch

    name = g["name"]
    x, dy, w = random(images, *size, 32), random(images, *size, 2), random(3, 3, 3, 32, 2, scale=0.1)
    scale, shift = affine(32)
    mean, inverse = torch.randn(32, device="cuda") * 0.2, torch.rand(32, device="cuda") + 0.5
    factor = torch.tensor([0.7], device="cuda")
    dx = torch.empty_like(x)
    sums, partial = torch.empty(blocks, 64, device="cuda"), torch.empty(blocks, 27 * 64, device="cuda")
    total, dw = torch.empty(64, device="cuda"), torch.empty(27 * 64, device="cuda")
    p = D.pointer
    first = module.launcher(name, (blocks,), g["threads"], g["shared"],
                            Thin(p(dy), p(w), p(factor), p(x) if g["dw"] or masked else None, p(scale) if masked else None, p(shift), p(mean), p(inverse), p(dx),
                                 p(sums) if masked else None, p(partial), images, segment, *size))
    add = lambda source, result, count, by: module.launcher("sum_partials", (math.ceil(count / 32),), 256, 1024, C.c_void_p(p(source)), C.c_void_p(p(result)),
                                                            C.c_int(blocks), C.c_int(count), C.c_void_p(p(by)))
    steps, results = [first], []
    if g["dw"]:
        steps.append(add(partial, dw, 27 * 64, factor))
        results.append(dw)
    if g["dx"]:
        results.append(dx)
        if masked:
            steps.append(add(sums, total, 64, None))
            results.append(total)

    def launch():
        for s in steps:
            s()

    same, unwritten = D.same_twice(launch, results)
    values = dict(kernel=name, images=images, size=size, fused=masked, segment=segment, blocks=blocks, same=same, unwritten=unwritten)
    xa = activated(x, scale, shift) if masked else x
    wc = torch_weights("PLAIN", w)
    mask = [g["dx"], g["dw"], False]
    k = images if not time_it else 1
    if time_it:
        theirs = backward("PLAIN", channels_first(dy), channels_first(xa), wc, mask)
    else:
        theirs = backward("PLAIN", channels_first(dy).double().cpu(), channels_first(xa).double().cpu(), wc.double().cpu(), mask)
    good = same and not unwritten
    if g["dw"]:
        values["error_dw"] = D.error(dw, theirs[1].permute(2, 3, 4, 1, 0).reshape(-1).double() * 0.7)
        good = good and values["error_dw"] < (1e-2 if time_it else 1e-5)
    if g["dx"]:
        want = theirs[0][:k].permute(0, 2, 3, 4, 1).double() * 0.7
        if masked:
            want = want * ((x[:k].double() * scale.double() + shift.double()).float() > 0).to(want.device)
        values["error"] = D.error(dx[:k], want)
        good = good and values["error"] < (1e-2 if time_it else 3e-3)
        if masked:
            both = [torch.zeros(32, device="cuda", dtype=torch.float64) for _ in range(2)]
            for n in range(images):
                d, xhat = dx[n].double(), (x[n].double() - mean.double()) * inverse.double()
                both[0] += d.sum((0, 1, 2))
                both[1] += (d * xhat).sum((0, 1, 2))
            values["moments"] = D.error(total, torch.cat(both))
            good = good and values["moments"] < (1e-3 if time_it else 1e-4)
    values["good"] = good
    if time_it:
        del theirs
        ms = D.timed(launch)
        xc, dc = channels_first(xa), channels_first(dy)
        peer = sum(D.timed(lambda: backward("PLAIN", dc, xc, wc, [m == 0, m == 1, False])) for m in range(2) if mask[m])
        moved = 2 * (dy.numel() + (x.numel() if g["dw"] or masked else 0) + (x.numel() if g["dx"] else 0))
        flop = 2 * images * math.prod(size) * 27 * 64 * (g["dx"] + g["dw"])
        values.update(ms=ms, cudnn_ms=peer, tflops=flop / ms / 1e9, tb_s=moved / ms / 1e9)
    row(**values)


def plain_case(module, spread, dimensions, kernel, stride, padding, inputs, outputs, models, images, size, dtype, time_it):
    """Forward, input gradient and weight gradient of the kernels for every case."""
    import torch

    window = lambda v, flat: [flat if dimensions == 2 else v, v, v]
    k, s, pad = window(kernel, 1), window(stride, 1), window(padding, 0)
    size = (1, *size[1:]) if dimensions == 2 else size
    out = tuple((size[d] - 1) * s[d] + k[d] - 2 * pad[d] if spread else (size[d] + 2 * pad[d] - k[d]) // s[d] + 1 for d in range(3))
    make = lambda *shape: (torch.randn(*shape, device="cuda") * (1 if len(shape) != 6 or shape[0] != models else 1)).to(dtype)
    x, dy = make(models, images, *size, inputs), make(models, images, *out, outputs)
    w = make(models, *k, inputs, outputs) * (math.prod(k) * inputs) ** -0.5
    factor = torch.rand(models, device="cuda") + 0.5
    y, dx = torch.empty_like(dy), torch.empty_like(x)
    suffix, p = {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype], D.pointer
    triple = lambda v: (C.c_int * 3)(*v)

    def apply(a, b, ins, outs, inside, outside, spread, turned):
        narrow = outs <= 16
        voxels = images * math.prod(math.ceil(outside[d] / s[d]) if spread else outside[d] for d in range(3))
        grid = (math.ceil(voxels / (128 if narrow else 64)), (math.prod(s) if spread else 1) * math.ceil(outs / (16 if narrow else 64)), models)
        block = PlainApply(p(a), None, p(w), None, p(factor), p(b), w[0].numel(), 1, images, ins, outs, triple(inside), triple(outside), triple(k), triple(s),
                           triple(pad), spread, turned, 0)
        return module.launcher(f"plain_apply_{'narrow' if narrow else 'wide'}_{suffix}", grid, 256, 9472 if narrow else 8448, block)

    moving, still, mc, sc, ms_, ss = (dy, x, outputs, inputs, out, size) if spread else (x, dy, inputs, outputs, size, out)
    count, narrow = w[0].numel(), sc <= 16
    tiles = math.ceil(math.prod(k) * mc / (128 if narrow else 64)) * math.ceil(sc / (16 if narrow else 64)) * models
    splits = max(1, min(math.ceil(images * math.prod(ss) / 256), 1024 // tiles))
    partial, dw = torch.empty(splits, models, count, device="cuda"), torch.empty(models, count, device="cuda")
    steps = {
        "forward": [apply(x, y, inputs, outputs, size, out, spread, 0)],
        "input gradient": [apply(dy, dx, outputs, inputs, out, size, not spread, 1)],
        "weight gradient": [
            module.launcher(f"plain_weights_{'narrow' if narrow else 'wide'}_{suffix}", (math.ceil(math.prod(k) * mc / (128 if narrow else 64)),
                            splits * math.ceil(sc / (16 if narrow else 64)), models), 256, 9472 if narrow else 8448,
                            PlainWeights(p(moving), p(still), None, None, p(partial), images, mc, sc, triple(ms_), triple(ss), triple(k), triple(s), triple(pad))),
            module.launcher("plain_sum", (math.ceil(count / 256), 1, models), 256, 0,
                            PlainSum(p(partial), p(factor), p(dw), count, 1, splits, math.prod(k), mc, sc, spread))],
    }
    results = {"forward": y, "input gradient": dx, "weight gradient": dw}
    side = "cpu" if not time_it else "cuda"
    torch.backends.cudnn.allow_tf32 = False
    for what, launches in steps.items():
        def launch():
            for one in launches:
                one()

        same, unwritten = D.same_twice(launch, [results[what]])
        want = []
        for m in range(models):
            wide = (lambda t: t.to(side).double()) if not time_it else (lambda t: t.float())
            xm, dm = channels_first(wide(x[m])), channels_first(wide(dy[m]))
            wm = wide(w[m]).permute(*((3, 4, 0, 1, 2) if spread else (4, 3, 0, 1, 2)))
            f = float(factor[m])
            if what == "forward":
                r = torch.ops.aten.convolution(xm, wm, None, s, pad, [1] * 3, bool(spread), [0] * 3, 1).permute(0, 2, 3, 4, 1)
            else:
                r = torch.ops.aten.convolution_backward(dm, xm, wm, None, s, pad, [1] * 3, bool(spread), [0] * 3, 1, [what[0] == "i", what[0] == "w", False])
                r = r[0].permute(0, 2, 3, 4, 1) if what[0] == "i" else r[1].permute(*((2, 3, 4, 0, 1) if spread else (2, 3, 4, 1, 0))).reshape(-1)
            want.append(r * f)
        wrong = D.error(results[what], torch.stack(want))
        limit = 3e-3 if dtype == torch.bfloat16 and what[0] != "w" else 1e-5
        values = dict(kernel=f"plain {suffix} {what} {'spread' if spread else 'gather'} {dimensions}D k{kernel}s{stride} {inputs}->{outputs} x{models}", images=images,
                      size=size, same=same, unwritten=unwritten, error=wrong, good=same and not unwritten and wrong < limit)
        if time_it:
            ms = D.timed(launch, least=3)
            flop = 2 * models * images * math.prod(size if spread else out) * math.prod(k) * inputs * outputs
            values.update(ms=ms, tflops=flop / ms / 1e9)
        row(**values)
        del want


def probe():
    """One wgmma by itself; where it is wrong, what it made of operands that name their rows and columns."""
    import torch

    module = D.Module("probe")
    for columns in (64, 32):
        def run(x, w):
            y = torch.empty(64, columns, device="cuda")
            launch = module.launcher(f"probe_{columns}", (1,), 128, 2048, C.c_void_p(D.pointer(x)), C.c_void_p(D.pointer(w)), C.c_void_p(D.pointer(y)))
            same, unwritten = D.same_twice(launch, [y])
            return y, same, unwritten

        x, w = random(64, 16), random(16, columns)
        y, same, unwritten = run(x, w)
        wrong = D.error(y, x.double().cpu() @ w.double().cpu())
        values = dict(kernel=f"probe_{columns}", images=1, size=(64, columns), same=same, unwritten=unwritten, error=wrong, good=same and not unwritten and wrong < 1e-6)
        if not values["good"]:
            pick = torch.eye(16, device="cuda").repeat(4, 1).bfloat16()
            rows = torch.arange(1, 17, device="cuda").view(16, 1).expand(16, columns).bfloat16().contiguous()
            across = torch.arange(1, columns + 1, device="cuda").view(1, columns).expand(16, columns).bfloat16().contiguous()
            values["row_seen"], values["column_seen"] = run(pick, rows)[0].int().tolist(), run(pick, across)[0].int().tolist()
        row(**values)


def run_part(part, times):
    import torch

    torch.backends.cudnn.benchmark = True
    torch.manual_seed(int(time.time()))
    kernels = D.geometry()
    sizes = PARTS[part][1]
    if part == "probe":
        guarded("probe", probe)
    if part in ("wide", "wide2d"):
        dimensions = 2 if part == "wide2d" else 3
        module = D.Module("conv_wide")
        for name, g in kernels.items():
            if g["family"] != "wide" or g["dimensions"] != dimensions:
                continue
            even = 2 if g["kind"] == "DOWN" else 1
            small = (1, 5 * even, 9 * even) if g["dimensions"] == 2 else tuple(even * n for n in SMALL)
            guarded(name, lambda: wide_case(module, g, 1, 2, 64, 64, small, False, False, False))
            guarded(name, lambda: wide_case(module, g, 2, 3, 32, 128, small, True, True, False))
        if times:
            eighth = tuple(n // 2 for n in QUARTER)
            for name, models, cin, cout, size in (
                ("wide_plain_64", 1, 64, 64, HALF), ("wide_down_64", 1, 64, 64, HALF), ("wide_plain_32", 1, 64, 32, HALF), ("wide_down_32", 1, 32, 32, FULL),
                ("wide_plain_64", 1, 128, 64, QUARTER), ("wide_plain_64", 1, 128, 128, QUARTER), ("wide_down_64", 1, 128, 128, QUARTER), ("wide_plain_64", 1, 32, 64, HALF),
                ("wide_plain_32", 1, 32, 32, HALF), ("wide_plain_64", 1, 256, 128, eighth), ("wide_plain_64", 1, 256, 256, eighth), ("wide_down_64", 1, 256, 256, eighth),
                ("wide_plain_64_2d", 1, 64, 64, (1, 80, 48)), ("wide_down_64_2d", 1, 64, 64, (1, 80, 48)), ("wide_plain_64_2d", 25, 64, 64, (1, 80, 48)),
                ("wide_plain_32_2d", 25, 64, 32, (1, 80, 48)), ("wide_down_32_2d", 25, 32, 32, (1, 160, 96)), ("wide_plain_64_2d", 25, 128, 64, (1, 40, 24))):
                if kernels[name]["dimensions"] != dimensions:
                    continue
                guarded(name, lambda: wide_case(module, kernels[name], models, BATCH, cin, cout, size, True, False, True))
    if part in ("grouped", "tile"):
        module = D.Module("conv_tile")
        for name, size in sizes.items():
            small = SMALL if kernels[name]["kind"] != "DOWN" else tuple(2 * s for s in SMALL)
            guarded(name, lambda: forward_case(module, kernels[name], 2, small, False, False))
            guarded(name, lambda: forward_case(module, kernels[name], 2, small, True, False))
            if times:
                guarded(name, lambda: forward_case(module, kernels[name], BATCH, size, True, True))
    if part == "thin":
        module, tile = D.Module("conv_thin"), D.Module("conv_tile")
        processors = torch.cuda.get_device_properties(0).multi_processor_count
        for name in ("thin_dx", "thin_dw", "thin_both"):
            for masked in (False, True):
                guarded(name, lambda: thin_case(module, kernels[name], 2, (9, 18, 35), masked, 4, 5, False))
        if times:
            for name, masked, segment in (("thin_both", True, 16), ("thin_dx", True, 16), ("thin_dw", True, 16), ("thin_dx", False, 16), ("thin_both", True, 32), ("thin_both", True, 64)):
                blocks = kernels[name]["blocks"] * processors
                guarded(name, lambda: thin_case(module, kernels[name], BATCH, FULL, masked, segment, blocks, True))
        guarded("pair_32_2", lambda: forward_case(tile, kernels["pair_32_2"], 2, SMALL, True, False))
        if times:
            guarded("pair_32_2", lambda: forward_case(tile, kernels["pair_32_2"], BATCH, FULL, True, True))
    if part == "weights":
        module = D.Module("conv_tile")
        for name, g in kernels.items():
            if g["family"] != "gradient":
                continue
            guarded(name, lambda: gradient_case(module, g, 2, SMALL, 3, False))
            if times:
                size = HALF if g["kind"] == "PLAIN" or g["inputs"] == 32 else QUARTER
                # as many blocks as run at once, or twice that
                splits = max(1, 132 * g["blocks"] * (1 if g["kind"] == "PLAIN" else 2) // (g["parts"] * g["classes"]))
                guarded(name, lambda: gradient_case(module, g, BATCH, size, splits, True))
    if part == "plain":
        module = D.Module("conv_plain")
        for dtype in (torch.float32, torch.bfloat16):
            for case in ((0, 3, 3, 1, 1, 5, 7, 1, 2, SMALL), (0, 3, 4, 2, 1, 20, 33, 2, 2, (6, 8, 10)), (1, 3, 4, 2, 1, 70, 6, 2, 2, SMALL), (0, 2, 3, 1, 1, 2, 40, 3, 2, SMALL),
                         (1, 2, 4, 2, 1, 32, 32, 2, 3, SMALL), (0, 3, 1, 1, 0, 24, 96, 1, 3, (1, 1, 1))):
                guarded(f"plain {case}", lambda: plain_case(module, *case, dtype, False))
        if times:
            for case in ((0, 3, 3, 1, 1, 64, 64, 1, 4, HALF), (1, 3, 4, 2, 1, 64, 64, 1, 4, QUARTER), (0, 3, 3, 1, 1, 32, 2, 1, 2, FULL), (0, 2, 3, 1, 1, 64, 64, 25, 32, (1, 40, 24))):
                guarded(f"plain {case}", lambda: plain_case(module, *case, torch.float32, True))


def table(rows):
    lines = [f"{'kernel':44} {'size':>22} {'ours ms':>8} {'cuDNN':>7} {'ratio':>6} {'TFLOP/s':>8} {'TB/s':>6} {'error':>8}  verdict"]
    for r in rows:
        if "failed" in r:
            lines.append(f"{r['kernel']:44} FAILED: {r['failed']}")
            continue
        number = lambda key, form: format(r[key], form) if r.get(key) is not None else ""
        ratio = f"{r['ms'] / r['cudnn_ms']:.2f}" if r.get("cudnn_ms") else ""
        size = f"{r['images']} x " + "x".join(map(str, r["size"]))
        extra = " fused" if r.get("fused") else ""
        extra += f" segment {r['segment']}" if r.get("segment") and r.get("ms") else ""
        verdict = "right" if r["good"] else f"WRONG (same twice {r['same']}, unwritten {r['unwritten']}, moments {r.get('moments')}, dw {r.get('error_dw')})"
        lines.append(f"{r['kernel'] + extra:44} {size:>22} {number('ms', '.3f'):>8} {number('cudnn_ms', '.3f'):>7} {ratio:>6} {number('tflops', '.0f'):>8} "
                     f"{number('tb_s', '.2f'):>6} {format(r.get('error', r.get('error_dw', 0)), '.1e'):>8}  {verdict}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=340, help="seconds, all together")
    parser.add_argument("--only", default="", help="parts, comma between: " + ", ".join(PARTS))
    parser.add_argument("--no-times", action="store_true", help="only whether they are right")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.part:
        return run_part(a.part, not a.no_times)

    began = time.time()
    import torch

    arch = D.architecture()
    about = dict(device=torch.cuda.get_device_name(), torch=torch.__version__, cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version(), arch=arch)
    print(json.dumps(about), flush=True)
    rows = []
    for source, said in D.build(["probe", "conv_tile", "conv_wide", "conv_thin", "conv_plain"], arch).items():
        if said:
            rows.append(dict(kernel=source + ".cu", failed="does not compile, see build/" + source + ".log: " + said.strip().splitlines()[-1][:200]))
    D.geometry()
    print(f"built after {time.time() - began:.0f} s", flush=True)
    wanted = [part for part in PARTS if not a.only or part in a.only.split(",")]
    for part in wanted:
        left = a.budget - (time.time() - began)
        if left < 15:
            rows.append(dict(kernel=f"part {part}", failed="no time left"))
            continue
        log = os.path.join(D.OUT, f"{part}.log")
        command = [sys.executable, os.path.abspath(__file__), "--part", part] + (["--no-times"] if a.no_times else [])
        start = time.time()
        with open(log, "w") as f:
            try:
                code = subprocess.run(command, stdout=f, stderr=subprocess.STDOUT, timeout=min(left, PARTS[part][0])).returncode
                trouble = f"exit {code}" if code else ""
            except subprocess.TimeoutExpired:
                trouble = "out of time"
        said = open(log).read()
        found = [json.loads(line[4:]) for line in said.splitlines() if line.startswith("ROW ")]
        rows += [dict(part=part, **r) for r in found]
        if trouble:
            last = [line for line in said.splitlines() if not line.startswith("ROW ")][-1:]
            rows.append(dict(kernel=f"part {part}", failed=f"{trouble} after {len(found)} rows {' '.join(last)[:200]}"))
        print(f"part {part}: {len(found)} rows in {time.time() - start:.0f} s {trouble}", flush=True)
        with open(os.path.join(D.OUT, "convolutions.json"), "w") as f:
            json.dump(dict(about=about, rows=rows), f, indent=1)
    checks = [r for r in rows if "ms" not in r and "failed" not in r]
    print(f"{sum(r['good'] for r in checks)} of {len(checks)} small checks right")
    print(table([r for r in rows if "ms" in r or "failed" in r or not r.get("good")]))
    sys.exit(any("failed" in r or not r["good"] for r in rows))


if __name__ == "__main__":
    main()

// Convolutions by warpgroup products (sm_90a) for any number of channels that 32 divides, 2D and 3D: PLAIN and DOWN of tile.cuh.
//
//   y[o][k] = bias[k] + factor sum over taps t, inputs i of a[o stride + t - 1][i] w[t][i][k],   a = x or relu(x scale + shift)
//
// With `flipped` and weights turned to taps x outputs x inputs, PLAIN is its own input gradient; DOWN is that of UP.
//
// Maps: models x images x Z x Y x X x channels, bf16, channels last. Weights: taps x inputs x outputs, bf16. Sums f32: parities,
// then parts of 32 inputs, then taps along y, along x; within those as the tensor cores add. An order that the tile does not change.
// Bytes: x once for each COLUMNS outputs (and a halo: 2.1 times a tile of 4 x 8 x 16, mostly from L2), y once, and
// from L2 all weights for each tile. Arithmetic: 2 taps inputs outputs a voxel.
//
// A block walks over tiles. A tile has phases: one for each parity (DOWN, whose input is 8 lattices, each convolved with 2x2x2
// of the taps) and part of 32 inputs. The halo of the next phase (of the next tile after the last one) is fetched and activated in
// slices during this one. Weights come through a ring, a group of taps that differ in z only at a time, LEAD groups ahead.
// A warpgroup owns 64 voxels of each z of the tile; going up in z a fragment of the input is loaded once into registers
// and meets the DEPTH taps of the group, while the products of the z before are still running.
//
// In 2D the tile's axes are (Y, image, X): then z has taps, y has none.
#include "tile.cuh"

struct Wide {
    const u16* x;
    const float* affine;     // models x 2 x inputs: scale, shift; null: x as it is
    const u16* w;            // models, `pitch` apart
    const float* bias;       // null: none; else models, `pitch` apart
    const float* factor;     // one number a model on the sums (1 / sigma), `factor_pitch` apart; null: 1
    u16* y;
    float* moments;          // models x tiles x 2 x outputs: sums and sums of squares of y as stored; null: not wanted
    long long pitch, factor_pitch;
    int images, inputs, outputs;
    int flipped;             // the taps from the last to the first
    Extent size;             // of x; z is 1 in 2D
};

// The loop over groups must know which of two registers a level has: every group begins with the same one where levels are even.
#ifdef __CUDACC__
#define UNROLL_GROUPS _Pragma("unroll (S::TZ + S::OVER) % 2 ? S::GROUPS : 1")
#else
#define UNROLL_GROUPS
#endif

template <Kind KIND_, int DIMENSIONS_, int COLUMNS_, int TZ_, int TY_, int TX_, int LEAD_>
struct WideShape {
    static constexpr Kind KIND = KIND_;
    static constexpr bool FLAT = DIMENSIONS_ == 2;
    static constexpr int COLUMNS = COLUMNS_, TZ = TZ_, TY = TY_, TX = TX_, LEAD = LEAD_;
    static constexpr int DEPTH = KIND == PLAIN ? 3 : 2, SIDE = KIND == PLAIN ? 3 : 4, STRIDE = KIND == PLAIN ? 1 : 2;
    static constexpr int OVER = DEPTH - 1;                       // what the halo adds to the tile
    static constexpr int CLASSES = KIND == PLAIN ? 1 : FLAT ? 4 : 8;
    static constexpr int GROUPS = FLAT ? DEPTH : DEPTH * DEPTH;  // of a phase
    static constexpr int TAPS = FLAT ? SIDE * SIDE : SIDE * SIDE * SIDE;
    static constexpr int STAGES = LEAD + 2;                      // one is being read by products that still run
    static constexpr int SLICES = GROUPS - LEAD;                 // of the next halo: fetched, LEAD groups later activated
    static constexpr int PART = 32, ROW = 64;                    // inputs of a phase, their bytes
    static constexpr int HZ = TZ + OVER, HY = FLAT ? TY : TY + OVER, HX = TX + 2, HALO = HZ * HY * HX;
    static constexpr int NB = COLUMNS / 8, WM = TY * TX / 16, THREADS = 32 * WM;
    static constexpr int HALO_BYTES = HALO * ROW, TAP_BYTES = PART * COLUMNS * 2, STAGE_BYTES = DEPTH * TAP_BYTES;
    static constexpr int MOMENT_BYTES = WM * 2 * COLUMNS * 4;
    static constexpr int SHARED = STAGES * STAGE_BYTES + 2 * HALO_BYTES + MOMENT_BYTES;
    static_assert(WM % 4 == 0 && TY % 2 == 0 && TX % 8 == 0, "a warpgroup is 4 fragments of 2 rows of 8 voxels");
    static_assert(SLICES > 0, "the next halo is ready in time");
};

template <class S>
__device__ __forceinline__ int wide_tap(int c, int t, int i) {
    int parity_z = S::FLAT ? c >> 1 : c >> 2, parity_y = c >> 1 & 1, parity_x = c & 1, y = t / S::DEPTH, x = t % S::DEPTH;
    if (S::KIND == PLAIN) return S::FLAT ? i * 3 + x : (i * 3 + y) * 3 + x;
    return S::FLAT ? (2 * i + parity_z) * 4 + 2 * x + parity_x : ((2 * i + parity_z) * 4 + 2 * y + parity_y) * 4 + 2 * x + parity_x;
}

template <class S>
__device__ __forceinline__ int wide_byte(int z, int y, int x, int chunk) {
    return swizzled<S::ROW>((z * S::HY + y) * S::HX + x, x, chunk);
}

template <class S>
__device__ __forceinline__ void wide(const Wide& p) {
    DYNAMIC_SHARED(shared);
    unsigned char* ring = shared;  // first: wgmma wants it on 1024 bytes
    unsigned char* halo = ring + S::STAGES * S::STAGE_BYTES;
    float* sums = (float*)(halo + 2 * S::HALO_BYTES);  // WM x 2 x COLUMNS

    // As the tile sees it: (z, y, x) is (Y, image, X) in 2D.
    int model = blockIdx.z, out0 = blockIdx.y * S::COLUMNS, parts = p.inputs / S::PART, phases = S::CLASSES * parts, groups = phases * S::GROUPS;
    Extent in = S::FLAT ? Extent{p.size.y, p.images, p.size.x} : p.size, out = in;
    out.z = in.z / S::STRIDE, out.x = in.x / S::STRIDE;
    if (!S::FLAT) out.y = in.y / S::STRIDE;
    int in_z = S::FLAT ? in.x : in.y * in.x, in_y = S::FLAT ? in.z * in.x : in.x;      // voxels from one to the next
    int out_z = S::FLAT ? out.x : out.y * out.x, out_y = S::FLAT ? out.z * out.x : out.x;
    int tiles_x = (out.x + S::TX - 1) / S::TX, tiles_y = (out.y + S::TY - 1) / S::TY, tiles_z = (out.z + S::TZ - 1) / S::TZ;
    int tiles = tiles_x * tiles_y * tiles_z * (S::FLAT ? 1 : p.images);
    size_t in_voxels = (size_t)in.z * in.y * in.x, out_voxels = (size_t)out.z * out.y * out.x;  // of an image; in 2D of all
    size_t volumes = S::FLAT ? 1 : p.images;
    int chunk = threadIdx.x % 4;
    const u16* map = p.x + model * volumes * in_voxels * p.inputs + chunk * 8;
    const u16* weights = p.w + model * p.pitch + out0;
    const float* affine = p.affine ? p.affine + (size_t)model * 2 * p.inputs : nullptr;

    // f(shared byte, voxel of the input, inside) for each 16 bytes that this thread owns of a slice of a halo.
    auto corner = [&](int at, int parity) { return at * S::STRIDE - 1 + (S::KIND == DOWN ? parity : 0); };
    struct Corner { int image, z, y, x; };
    auto place = [&](int tile) {
        return Corner{tile / (tiles_x * tiles_y * tiles_z), tile / (tiles_x * tiles_y) % tiles_z * S::TZ, tile / tiles_x % tiles_y * S::TY, tile % tiles_x * S::TX};
    };
    struct Spot { int byte, voxel; bool inside; };
    constexpr int STEP = S::THREADS / 4;
    auto spot = [&](const Corner& at, int c, int v) {
        int x = v % S::HX, y = v / S::HX % S::HY, z = v / (S::HX * S::HY);
        int gz = corner(at.z, S::FLAT ? c >> 1 : c >> 2) + z * S::STRIDE, gx = corner(at.x, c & 1) + x * S::STRIDE;
        int gy = S::FLAT ? at.y + y : corner(at.y, c >> 1 & 1) + y * S::STRIDE;
        bool inside = (unsigned)gz < (unsigned)in.z && (unsigned)gy < (unsigned)in.y && (unsigned)gx < (unsigned)in.x && x < S::TX + S::OVER;
        return Spot{wide_byte<S>(z, y, x, chunk), gz * in_z + gy * in_y + gx, inside};
    };
    auto fetch = [&](int tile, int phase, unsigned char* to, int slice, int slices) {
        Corner at = place(tile);
        const u16* from = map + at.image * in_voxels * p.inputs + phase % parts * S::PART;
        for (int v = threadIdx.x / 4 + slice * STEP; v < S::HALO; v += slices * STEP) {
            Spot s = spot(at, phase / parts, v);
            copy16(to + s.byte, s.inside ? from + (size_t)s.voxel * p.inputs : p.x, s.inside);
        }
    };
    auto activate_slice = [&](int tile, int phase, unsigned char* to, int slice, int slices) {  // each thread what it copied itself
        Corner at = place(tile);
        const float* of = affine + phase % parts * S::PART + chunk * 8;
        float scale[8], shift[8];
        UNROLL for (int i = 0; i < 8; i++) scale[i] = of[i], shift[i] = of[p.inputs + i];
        for (int v = threadIdx.x / 4 + slice * STEP; v < S::HALO; v += slices * STEP) {
            Spot s = spot(at, phase / parts, v);
            if (s.inside) activate(to + s.byte, scale, shift);
        }
    };
    auto load_group = [&](int g, unsigned char* stage) {
        constexpr int CHUNKS = S::COLUMNS / 8;
        int phase = g / S::GROUPS, t = g % S::GROUPS, c = phase / parts;
        const u16* from = weights + (size_t)(phase % parts) * S::PART * p.outputs;
        for (int r = threadIdx.x; r < S::DEPTH * S::PART * CHUNKS; r += S::THREADS) {
            int column = r % CHUNKS, row = r / CHUNKS % S::PART, i = r / CHUNKS / S::PART, tap = wide_tap<S>(c, t, i);
            if (p.flipped) tap = S::TAPS - 1 - tap;
            copy16(stage + i * S::TAP_BYTES + swizzled<S::COLUMNS * 2>(row, row, column), from + ((size_t)tap * p.inputs + row) * p.outputs + column * 8, true);
        }
    };

    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int wy = warp / (S::TX / 8) * 2, wx = warp % (S::TX / 8) * 8;  // the warp's corner in the tile
    int row_y = wy + (lane >> 3 & 1), row_x = wx + (lane & 7);     // the voxel that this lane addresses
    float factor = p.factor ? p.factor[model * p.factor_pitch] : 1.f;
    const float* bias = p.bias ? p.bias + model * p.pitch + out0 : nullptr;

    if ((int)blockIdx.x >= tiles) return;
    fetch(blockIdx.x, 0, halo, 0, 1);
    copy_commit();
    UNROLL for (int g = 0; g < S::LEAD; g++) {
        load_group(g, ring + g * S::STAGE_BYTES);
        copy_commit();
    }
    if (affine) {
        copy_wait<S::LEAD>();
        activate_slice(blockIdx.x, 0, halo, 0, 1);
    }

    constexpr int LEVELS = S::TZ + S::OVER;  // of z, in the halo
    u32 a[2][2][4];  // every other level, half of the part
    float acc[S::TZ][S::NB][4];
    int n = 0, b = 0;  // groups and phases done
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        bool last = tile + (int)gridDim.x >= tiles;
        UNROLL for (int z = 0; z < S::TZ; z++)
            UNROLL for (int k = 0; k < S::NB; k++)
                UNROLL for (int r = 0; r < 4; r++) acc[z][k][r] = 0.f;
        int g = 0;
        for (int phase = 0; phase < phases; phase++, b ^= 1) {
            bool more = phase + 1 < phases || !last;
            int next_tile = phase + 1 < phases ? tile : tile + gridDim.x, next_phase = phase + 1 < phases ? phase + 1 : 0;
            const unsigned char* here = halo + b * S::HALO_BYTES;
            unsigned char* next = halo + (b ^ 1) * S::HALO_BYTES;
            auto begin = [&](int t) {
                copy_wait<S::LEAD - 1>();  // this group's weights are here, in this thread's view, and slices up to t - LEAD
                show_to_products();
                __syncthreads();           // in everyone's; and all products but the last ones of the group before are done
                if (g + S::LEAD < groups || !last) load_group((g + S::LEAD) % groups, ring + (n + S::LEAD) % S::STAGES * S::STAGE_BYTES);
                if (more && t < S::SLICES) fetch(next_tile, next_phase, next, t, S::SLICES);
                copy_commit();
            };
            auto load = [&](int t, int z) {
                int at_y = row_y + (S::FLAT ? 0 : t / S::DEPTH), at_x = row_x + (S::FLAT ? t : t % S::DEPTH);
                UNROLL for (int k = 0; k < 2; k++) load4(a[(t * LEVELS + z) & 1][k], here + wide_byte<S>(z, at_y, at_x, k * 2 + (lane >> 4)));
            };
            begin(0);
            load(0, 0);
            UNROLL_GROUPS
            for (int t = 0; t < S::GROUPS; t++, g++, n++) {
                if (t) begin(t);
                const unsigned char* stage = ring + n % S::STAGES * S::STAGE_BYTES;
                UNROLL for (int z = 0; z < LEVELS; z++) {
                    product_fence();
                    UNROLL for (int k = 0; k < 2; k++)
                        UNROLL for (int i = 0; i < S::DEPTH; i++)
                            if (z - i >= 0 && z - i < S::TZ)
                                product(acc[z - i], a[(t * LEVELS + z) & 1][k], describe<S::COLUMNS * 2>(stage + i * S::TAP_BYTES + k * 16 * S::COLUMNS * 2));
                    product_commit();
                    if (z == 0 && affine && more && t >= S::LEAD) activate_slice(next_tile, next_phase, next, t - S::LEAD, S::SLICES);
                    product_wait<1>();  // of the z before: its fragments may go
                    if (z + 1 < LEVELS) load(t, z + 1);
                    else load(t + 1 < S::GROUPS ? t + 1 : 0, t + 1 < S::GROUPS ? 0 : LEVELS * S::GROUPS & 1);  // after the last group: nobody needs it
                }
            }
            product_wait<0>();
        }

        // Scale and bias, round, moments, store.
        Corner at = place(tile);
        float sum[S::NB][2] = {}, square[S::NB][2] = {};
        u16* y = p.y + ((model * volumes + at.image) * out_voxels) * p.outputs + out0;
        UNROLL for (int z = 0; z < S::TZ; z++)
            UNROLL for (int half = 0; half < 2; half++) {
                int qz = at.z + z, qy = at.y + wy + half, qx = at.x + wx + lane / 4;
                bool inside = qz < out.z && qy < out.y && qx < out.x;
                size_t voxel = (size_t)qz * out_z + (size_t)qy * out_y + qx;
                u32 word[S::NB];
                UNROLL for (int k = 0; k < S::NB; k++) {
                    int channel = k * 8 + lane % 4 * 2;
                    word[k] = pack(fmaf(acc[z][k][2 * half], factor, bias ? bias[channel] : 0.f), fmaf(acc[z][k][2 * half + 1], factor, bias ? bias[channel + 1] : 0.f));
                    if (inside) {
                        sum[k][0] += low(word[k]), square[k][0] = fmaf(low(word[k]), low(word[k]), square[k][0]);
                        sum[k][1] += high(word[k]), square[k][1] = fmaf(high(word[k]), high(word[k]), square[k][1]);
                    }
                }
                UNROLL for (int k = 0; k < S::NB; k += 4) {
                    u32 four[4] = {word[k], word[k + 1], word[k + 2], word[k + 3]};
                    transpose_quad(four);  // now eight successive channels, of block k + lane % 4
                    if (inside) *(uint4*)(y + voxel * p.outputs + (k + lane % 4) * 8) = uint4{four[0], four[1], four[2], four[3]};
                }
            }
        if (!p.moments) continue;
        UNROLL for (int k = 0; k < S::NB; k++)
            UNROLL for (int i = 0; i < 2; i++) {
                UNROLL for (int m = 4; m < 32; m *= 2) {
                    sum[k][i] += __shfl_xor_sync(~0u, sum[k][i], m);
                    square[k][i] += __shfl_xor_sync(~0u, square[k][i], m);
                }
                float* slot = sums + warp * 2 * S::COLUMNS + k * 8 + lane % 4 * 2 + i;
                if (lane < 4) slot[0] = sum[k][i], slot[S::COLUMNS] = square[k][i];
            }
        __syncthreads();
        for (int t = threadIdx.x; t < 2 * S::COLUMNS; t += S::THREADS) {
            float total = 0.f;
            for (int m = 0; m < S::WM; m++) total += sums[m * 2 * S::COLUMNS + t];
            p.moments[(((size_t)model * tiles + tile) * 2 + t / S::COLUMNS) * p.outputs + out0 + t % S::COLUMNS] = total;
        }
    }
    copy_wait<0>();  // of empty groups
}

// WIDE(name, kind, dimensions, outputs of a block, tile, groups ahead); grid: (blocks, outputs / outputs of a block, models)
#define WIDES(WIDE)                               \
    WIDE(wide_plain_64, PLAIN, 3, 64, 4, 8, 16, 2)  \
    WIDE(wide_plain_32, PLAIN, 3, 32, 4, 8, 16, 2)  \
    WIDE(wide_down_64, DOWN, 3, 64, 4, 8, 16, 2)    \
    WIDE(wide_down_32, DOWN, 3, 32, 4, 8, 16, 2)    \
    WIDE(wide_plain_64_2d, PLAIN, 2, 64, 4, 8, 16, 2) \
    WIDE(wide_plain_32_2d, PLAIN, 2, 32, 4, 8, 16, 2) \
    WIDE(wide_down_64_2d, DOWN, 2, 64, 4, 8, 16, 1)  \
    WIDE(wide_down_32_2d, DOWN, 2, 32, 4, 8, 16, 1)

#define WIDE_KERNEL(name, kind, dimensions, columns, tz, ty, tx, lead)                          \
    typedef WideShape<kind, dimensions, columns, tz, ty, tx, lead> name##_shape;                \
    extern "C" __global__ void __launch_bounds__(name##_shape::THREADS, 1) name(const Wide p) { \
        wide<name##_shape>(p);                                                                  \
    }
#if !defined(__CUDACC__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
WIDES(WIDE_KERNEL)
#endif

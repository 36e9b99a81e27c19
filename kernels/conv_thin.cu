// The two gradients of a 3x3x3 convolution from 32 to 2 channels: stride 1, padding 1, channels last.
//
//   input   dx[u][in]       = factor * sum over tap, out of dy[u + 1 - tap][out] w[tap][in][out]
//   weight  dw[tap][in][out] = sum over u of x[u][in] dy[u + 1 - tap][out]
//
// Both run over the voxels u of the wide map, which is read or written exactly once and has no halo. Only dy,
// 4 bytes a voxel, is gathered: a word of it (both outputs of one voxel) is half a column of an mma operand
// as it lies in memory. A block walks up in z over a tile of 16 x 32 voxels, with the planes of dy in a
// ring in shared memory, one barrier a plane.
//
// Channels and voxels of an mma may be numbered at will, so that a lane (g = lane / 4, q = lane % 4) owns, of a
// fragment of 16 voxels along x, the channels 4 g to 4 g + 3 of the voxels q + 4 i + 8 h, i, h = 0, 1: 8 bytes
// of global memory each, four whole voxels a warp, without shared memory or shuffles. In all three
// matrices of both products that is where the registers belong:
//   row g and g + 8 of block m (c of the first, a of the second): channels 4 g + 2 m and the next
//   column c of block h (first): voxel c / 2 + 4 (c % 2) + 8 h; depth 2 q + i + 8 h (second): voxel q + 4 i + 8 h
#include "mma.cuh"

struct Thin {
    const u16* dy;         // images, z, y, x, 2
    const u16* w;          // 27 taps, 32, 2
    const float* factor;   // one number on the weights (1 / sigma); null: 1
    const u16* x;          // images, z, y, x, 32: the raw map; the input gradient may do without
    const float* scale;    // the layer read relu(x scale + shift); null: it read x, nothing is masked
    const float* shift;
    const float* mean;     // for the sums: xhat = (x - mean) inverse
    const float* inverse;
    u16* dx;               // like x: zero where relu(x scale + shift) is
    float* sums;           // blocks x 2 x 32: of dx as stored, and of dx xhat; null: not wanted (needs scale)
    float* partial;        // blocks x 27 x 32 x 2: the weight gradient without the factor
    int images, segment;   // segment: planes that a block does in one go
    Extent size;           // fewer than 2^26 voxels an image
};

template <int TY_, int WARPS_>
struct ThinShape {
    static constexpr int TY = TY_, TX = 32, WARPS = WARPS_, THREADS = 32 * WARPS;
    static constexpr int FRAGMENTS = TY * TX / 16 / WARPS;  // a warp and plane
    static constexpr int SPANS = TX / 16;  // fragments a row
    static constexpr int HY = TY + 2, HX = TX + 2;
    // Banks: rows 10 apart, planes 8 apart (modulo 32) keep every gather below without conflicts.
    static constexpr int ROW = 42, PLANE = (HY * ROW + 15) / 32 * 32 + 8, RING = 8;
    static constexpr int WORDS = (HY * HX + THREADS - 1) / THREADS;  // of a plane of dy, a thread
    static constexpr int COUNT = 27 * 32 * 2;
    static constexpr int RING_BYTES = RING * PLANE * 4, SUM_BYTES = WARPS * 64 * 4;
    static constexpr int SHARED = RING_BYTES + SUM_BYTES, SHARED_DW = SHARED + COUNT * 4;
    static_assert(ROW % 32 == 10 && PLANE % 32 == 8 && PLANE >= HY * ROW - 8 && ROW >= HX, "banks");
    static_assert(WARPS % SPANS == 0, "a warp keeps its columns");
    static_assert(FRAGMENTS % 2 == 0, "fragments are fetched two ahead");
};

/// The order of the taps: eight of each z, then the ninth of each; the rest is padding. Negative: padding.
__device__ __forceinline__ int thin_tap(int t) { return t < 24 ? t / 8 * 9 + t % 8 : t < 27 ? (t - 24) * 9 + 8 : -1; }
/// Where a tap (of nine) lies in a plane of the ring, from the voxel with the same tile coordinates.
template <class S>
__device__ __forceinline__ int thin_offset(int t) { return (2 - t / 3) * S::ROW + 2 - t % 3; }

template <class S, bool DX, bool DW>
__device__ __forceinline__ void thin(const Thin& p) {
    DYNAMIC_SHARED(shared);
    u32* ring = (u32*)shared;
    float* sums = (float*)(shared + S::RING_BYTES);               // warps x 2 x 32
    float* block = (float*)(shared + S::RING_BYTES + S::SUM_BYTES);  // as partial
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;
    int tiles_x = (p.size.x + S::TX - 1) / S::TX, tiles_y = (p.size.y + S::TY - 1) / S::TY, segments = (p.size.z + p.segment - 1) / p.segment;
    int units = tiles_x * tiles_y * segments * p.images;
    bool masked = p.scale, reads = DW || masked;

    float scale[4], shift[4], mean[4], sum[4] = {}, product[4] = {};
    UNROLL for (int c = 0; c < 4; c++) {
        scale[c] = masked ? p.scale[4 * g + c] : 1.f, shift[c] = masked ? p.shift[4 * g + c] : 0.f;
        mean[c] = DX && p.sums ? p.mean[4 * g + c] : 0.f;
    }
    u32 weights[4][2][4];
    float factor = DX && p.factor ? *p.factor : 1.f;
    if (DX)
        UNROLL for (int k = 0; k < 4; k++)
            UNROLL for (int m = 0; m < 2; m++)
                UNROLL for (int r = 0; r < 4; r++) {
                    int tap = thin_tap(8 * k + 4 * (r >> 1) + q);
                    weights[k][m][r] = tap < 0 || (k == 3 && r > 1) ? 0 : ((const u32*)p.w)[tap * 32 + 4 * g + 2 * m + (r & 1)];
                }
    float dw[7][2][4];  // per z of the tap and output, eight taps; last, column c: the ninth tap of z = c % 4, output c / 4
    if (DW)
        UNROLL for (int n = 0; n < 7; n++)
            UNROLL for (int m = 0; m < 2; m++)
                UNROLL for (int r = 0; r < 4; r++) dw[n][m][r] = 0.f;

    // This lane's places in a plane of the ring. First product: the voxel is g, the tap q; second: the other way round.
    int first[2] = {g / 2 + 4 * (g & 1) + thin_offset<S>(q), g / 2 + 4 * (g & 1) + thin_offset<S>(4 + q)}, first_last = g / 2 + 4 * (g & 1) + thin_offset<S>(8);
    int second = q + thin_offset<S>(g), second_last = q + thin_offset<S>(8);
    int first_z = q < 3 ? q : 2, second_z = (g & 3) < 3 ? g & 3 : 2;  // padding repeats a tap: what is not finite spreads no further

    int n = 0;  // counts planes; the three in use are n to n + 2
    for (int unit = blockIdx.x; unit < units; unit += gridDim.x) {
        int x0 = unit % tiles_x * S::TX, y0 = unit / tiles_x % tiles_y * S::TY, image = unit / (tiles_x * tiles_y * segments);
        int z0 = unit / (tiles_x * tiles_y) % segments * p.segment, z1 = z0 + p.segment < p.size.z ? z0 + p.segment : p.size.z;
        size_t voxels = (size_t)p.size.z * p.size.y * p.size.x;
        const u32* dy = (const u32*)p.dy + image * voxels;

        u32 plane[S::WORDS];
        auto fetch = [&](int z) {
            UNROLL for (int j = 0; j < S::WORDS; j++) {
                int t = threadIdx.x + j * S::THREADS, y = y0 - 1 + t / S::HX, x = x0 - 1 + t % S::HX;
                bool inside = t < S::HY * S::HX && (unsigned)z < (unsigned)p.size.z && (unsigned)y < (unsigned)p.size.y && (unsigned)x < (unsigned)p.size.x;
                plane[j] = inside ? dy[((size_t)z * p.size.y + y) * p.size.x + x] : 0;
            }
        };
        auto put = [&](int slot) {
            UNROLL for (int j = 0; j < S::WORDS; j++) {
                int t = threadIdx.x + j * S::THREADS;
                if (t < S::HY * S::HX) ring[slot % S::RING * S::PLANE + t / S::HX * S::ROW + t % S::HX] = plane[j];
            }
        };
        // Fragment f of this warp: a row and 16 voxels of it.
        int column = warp % S::SPANS * 16;
        auto row = [&](int f) { return warp / S::SPANS + f * (S::WARPS / S::SPANS); };
        auto exists = [&](int f) { return y0 + row(f) < p.size.y && x0 + column < p.size.x; };
        auto inside = [&](int h, int i) { return x0 + column + 8 * h + 4 * i + q < p.size.x; };
        auto place = [&](int z, int f) { return ((z * p.size.y + y0 + row(f)) * p.size.x + x0 + column + q) * 32 + 4 * g; };
        const u16* map = reads ? p.x + image * voxels * 32 : p.dy;  // p.dy: never read as a map
        u16* result = DX ? p.dx + image * voxels * 32 : p.dx;
        u32 x[2][2][2][2];  // fragment, h, i, pair of channels
        auto read = [&](int z, int f) {
            const u16* from = map + (reads ? place(z, f) : 0);
            UNROLL for (int h = 0; h < 2; h++)
                UNROLL for (int i = 0; i < 2; i++) {
                    uint2 two = uint2{0, 0};
                    if (reads && z < z1 && exists(f) && inside(h, i)) two = *(const uint2*)(from + (8 * h + 4 * i) * 32);
                    x[f & 1][h][i][0] = two.x, x[f & 1][h][i][1] = two.y;
                }
        };

        read(z0, 0);
        read(z0, 1);
        fetch(z0 - 1);
        put(n);
        fetch(z0);
        put(n + 1);
        fetch(z0 + 1);
        for (int z = z0; z < z1; z++, n++) {
            put(n + 2);
            if (z + 1 < z1) fetch(z + 2);
            __syncthreads();  // the planes are everyone's; eight of them: nobody still reads those to be written next
            const u32* planes[3];  // by the z of the tap
            UNROLL for (int k = 0; k < 3; k++) planes[k] = ring + (n + 2 - k) % S::RING * S::PLANE;
            const u32* first_plane = ring + (n + 2 - first_z) % S::RING * S::PLANE + first_last;
            const u32* second_plane = ring + (n + 2 - second_z) % S::RING * S::PLANE + second_last;

            UNROLL for (int f = 0; f < S::FRAGMENTS; f++) {
                int at = row(f) * S::ROW + column;
                if (exists(f)) {
                    if (DW) {
                        u32 a[2][4];
                        UNROLL for (int h = 0; h < 2; h++)
                            UNROLL for (int m = 0; m < 2; m++) {
                                float v[2][2];  // i, channel
                                UNROLL for (int i = 0; i < 2; i++) {
                                    u32 word = x[f & 1][h][i][m];
                                    v[i][0] = low(word), v[i][1] = high(word);
                                    UNROLL for (int c = 0; c < 2; c++)
                                        if (masked) v[i][c] = inside(h, i) ? fmaxf(fmaf(v[i][c], scale[2 * m + c], shift[2 * m + c]), 0.f) : 0.f;
                                }
                                a[m][2 * h] = pack(v[0][0], v[1][0]), a[m][2 * h + 1] = pack(v[0][1], v[1][1]);
                            }
                        UNROLL for (int k = 0; k < 4; k++) {
                            u32 b[2][2];  // output, h
                            UNROLL for (int h = 0; h < 2; h++) {
                                const u32* from = (k < 3 ? planes[k < 3 ? k : 0] + second : second_plane) + at + 8 * h;
                                u32 word[2] = {word_at(from), word_at(from + 4)};
                                b[0][h] = (word[0] & 0xffffu) | word[1] << 16, b[1][h] = word[0] >> 16 | (word[1] & 0xffff0000u);
                                if (k == 3) b[0][h] = g & 4 ? b[1][h] : b[0][h];
                            }
                            UNROLL for (int out = 0; out < (k < 3 ? 2 : 1); out++)
                                UNROLL for (int m = 0; m < 2; m++) multiply_add(dw[2 * k + out][m], a[m], b[out][0], b[out][1]);
                        }
                    }
                    u16* to = result + (DX ? place(z, f) : 0);
                    if (DX)
                        UNROLL for (int h = 0; h < 2; h++) {
                            float acc[2][4] = {};
                            UNROLL for (int k = 0; k < 4; k++) {
                                u32 b[2];
                                if (k < 3) {
                                    b[0] = word_at(planes[k < 3 ? k : 0] + first[0] + at + 8 * h);
                                    b[1] = word_at(planes[k < 3 ? k : 0] + first[1] + at + 8 * h);
                                } else {
                                    b[0] = b[1] = word_at(first_plane + at + 8 * h);  // the weights of b[1] are zero
                                }
                                UNROLL for (int m = 0; m < 2; m++) multiply_add(acc[m], weights[k][m], b[0], b[1]);
                            }
                            UNROLL for (int i = 0; i < 2; i++) {
                                u32 word[2];
                                UNROLL for (int m = 0; m < 2; m++) {
                                    float v[2] = {low(x[f & 1][h][i][m]), high(x[f & 1][h][i][m])}, d[2];
                                    UNROLL for (int c = 0; c < 2; c++) {
                                        d[c] = acc[m][2 * c + i] * factor;
                                        if (masked && !(fmaf(v[c], scale[2 * m + c], shift[2 * m + c]) > 0.f)) d[c] = 0.f;
                                    }
                                    word[m] = pack(d[0], d[1]);
                                    if (inside(h, i))
                                        UNROLL for (int c = 0; c < 2; c++) {
                                            float stored = c ? high(word[m]) : low(word[m]);
                                            sum[2 * m + c] += stored;
                                            product[2 * m + c] = fmaf(stored, v[c] - mean[2 * m + c], product[2 * m + c]);
                                        }
                                }
                                if (inside(h, i)) *(uint2*)(to + (8 * h + 4 * i) * 32) = uint2{word[0], word[1]};
                            }
                        }
                }
                if (f + 2 < S::FRAGMENTS) read(z, f + 2);
                else read(z + 1, f + 2 - S::FRAGMENTS);
            }
        }
        n += 2;
    }

    if (DX && p.sums) {
        UNROLL for (int c = 0; c < 4; c++) {
            UNROLL for (int m = 1; m < 4; m *= 2) {
                sum[c] += __shfl_xor_sync(~0u, sum[c], m);
                product[c] += __shfl_xor_sync(~0u, product[c], m);
            }
            if (q == 0) {
                sums[warp * 64 + 4 * g + c] = sum[c];
                sums[warp * 64 + 32 + 4 * g + c] = product[c] * p.inverse[4 * g + c];
            }
        }
        __syncthreads();
        if (threadIdx.x < 64) {
            float total = 0.f;
            for (int w = 0; w < S::WARPS; w++) total += sums[w * 64 + threadIdx.x];
            p.sums[(size_t)blockIdx.x * 64 + threadIdx.x] = total;
        }
    }
    if (DW) {
        for (int turn = 0; turn < S::WARPS; turn++) {  // one warp after the other
            if (turn == warp)
                UNROLL for (int k = 0; k < 7; k++)
                    UNROLL for (int m = 0; m < 2; m++)
                        UNROLL for (int r = 0; r < 4; r++) {
                            int c = 2 * q + (r & 1), in = 4 * g + 2 * m + (r >> 1);
                            int tap = k < 6 ? k / 2 * 9 + c : c % 4 * 9 + 8, out = k < 6 ? k % 2 : c / 4;
                            if (k == 6 && c % 4 == 3) continue;
                            float* slot = block + (tap * 32 + in) * 2 + out;
                            *slot = dw[k][m][r] + (turn ? *slot : 0.f);
                        }
            __syncthreads();
        }
        for (int t = threadIdx.x; t < S::COUNT; t += S::THREADS) p.partial[(size_t)blockIdx.x * S::COUNT + t] = block[t];
    }
}

// THIN(name, input gradient, weight gradient, tile y, warps, blocks an SM); grid: as many blocks as run at once
#ifndef THINS
#define THINS(THIN)                        \
    THIN(thin_dx, true, false, 16, 8, 2)   \
    THIN(thin_dw, false, true, 16, 8, 2)   \
    THIN(thin_both, true, true, 8, 4, 3)
#endif

#define THIN_KERNEL(name, dx, dw, ty, warps, blocks)                                                    \
    typedef ThinShape<ty, warps> name##_shape;                                                          \
    extern "C" __global__ void __launch_bounds__(name##_shape::THREADS, blocks) name(const Thin p) {    \
        thin<name##_shape, dx, dw>(p);                                                                  \
    }
THINS(THIN_KERNEL)

/// The second stage: result[i] = factor * sum over blocks, in a fixed order. 32 x 8 threads, 32 numbers a block.
extern "C" __global__ void __launch_bounds__(256) sum_partials(const float* partial, float* result, int blocks, int count, const float* factor) {
    DYNAMIC_SHARED(lots);
    float* part = (float*)lots;  // 8 x 32
    int i = blockIdx.x * 32 + threadIdx.x % 32, lot = threadIdx.x / 32;
    float sum = 0.f;
    if (i < count)
        for (int b = lot; b < blocks; b += 8) sum += partial[(size_t)b * count + i];
    part[threadIdx.x] = sum;
    __syncthreads();
    if (lot || i >= count) return;
    for (int k = 1; k < 8; k++) sum += part[k * 32 + threadIdx.x];
    result[i] = factor ? sum * *factor : sum;
}

// cp.async, ldmatrix and mma.sync for a host compiler: what PTX says they do, lane by lane, with the bank
// conflicts that the addresses really used would cost.
#pragma once
#include "cuda.hpp"

namespace sim {

inline float bf16_of(unsigned short bits) { return __uint_as_float((unsigned)bits << 16); }
inline float half_of(unsigned word, int which) { return bf16_of((unsigned short)(which ? word >> 16 : word)); }

struct Load { const unsigned short* row; unsigned* to; };
template <int COUNT, bool TRANSPOSED>
void load_matrices(void* const* lanes) {
    for (int l = 0; l < WARP; l++)
        for (int m = 0; m < COUNT; m++) {
            unsigned short pair[2];
            for (int i = 0; i < 2; i++) {
                int row = TRANSPOSED ? 2 * (l % 4) + i : l / 4, column = TRANSPOSED ? l / 4 : 2 * (l % 4) + i;
                const unsigned short* address = ((Load*)lanes[8 * m + row])->row;
                if ((size_t)address % 16) fail("ldmatrix: a row off its 16 bytes");
                pair[i] = address[column];
            }
            ((Load*)lanes[l])->to[m] = pair[0] | (unsigned)pair[1] << 16;
        }
    machine.counters.loads++;
    machine.counters.load_bytes += COUNT * 128;
    for (int m = 0; m < COUNT; m++) {
        unsigned char banks[8];
        for (int r = 0; r < 8; r++) banks[r] = (size_t)((Load*)lanes[8 * m + r])->row / 16 % 8;
        count_wavefronts(banks, 8, machine.counters.load_ideal, machine.counters.load_real);
    }
}
template <int COUNT, bool TRANSPOSED>
void load(unsigned* to, const void* row) {
    Load me{(const unsigned short*)row, to};
    collective(&me, load_matrices<COUNT, TRANSPOSED>);
}

struct Multiply { float* c; const unsigned *a, *b0, *b1; };
inline void multiply(void* const* lanes) {
    machine.counters.multiplies++;
    float a[16][16], b[16][8];
    for (int l = 0; l < WARP; l++) {
        const Multiply& me = *(Multiply*)lanes[l];
        int g = l / 4, q = l % 4;
        for (int i = 0; i < 2; i++) {
            for (int r = 0; r < 4; r++) a[g + 8 * (r & 1)][2 * q + i + 8 * (r >> 1)] = half_of(me.a[r], i);
            b[2 * q + i][g] = half_of(*me.b0, i);
            b[2 * q + i + 8][g] = half_of(*me.b1, i);
        }
    }
    for (int l = 0; l < WARP; l++)
        for (int r = 0; r < 4; r++) {
            float& c = ((Multiply*)lanes[l])->c[r];
            int row = l / 4 + 8 * (r >> 1), column = 2 * (l % 4) + (r & 1);
            double sum = c;  // the device rounds otherwise, in an order that nobody publishes
            for (int k = 0; k < 16; k++) sum += (double)a[row][k] * b[k][column];
            c = (float)sum;
        }
}

struct Word { const unsigned* from; unsigned value; };
inline void load_words(void* const* lanes) {  // and the wavefronts: equal words of a bank are one
    int most = 0;
    for (int bank = 0; bank < 32; bank++) {
        std::vector<const unsigned*> words;
        for (int l = 0; l < WARP; l++) {
            const unsigned* from = ((Word*)lanes[l])->from;
            if ((size_t)from / 4 % 32 == (size_t)bank && std::find(words.begin(), words.end(), from) == words.end())
                words.push_back(from);
        }
        most = std::max(most, (int)words.size());
    }
    for (int l = 0; l < WARP; l++) ((Word*)lanes[l])->value = *((Word*)lanes[l])->from;
    machine.counters.loads++, machine.counters.load_bytes += 128;
    machine.counters.load_ideal++, machine.counters.load_real += most;
}

// ---- wgmma: sums (64 x columns) += a (64 x 16, in registers) b (16 x columns, N-major in shared memory) ----
// Carried out at the last moment allowed, at the wait: what is overwritten before is wrong then.

/// Row k, column n of b: rows of 32, 64 or 128 bytes, 16-byte chunks swizzled by the address.
inline float descriptor_at(unsigned long long descriptor, int k, int n) {
    size_t start = (descriptor & 0x3fff) << 4, leading = (descriptor >> 16 & 0x3fff) << 4, stride = (descriptor >> 32 & 0x3fff) << 4;
    int mode = descriptor >> 62, chunks = mode == 1 ? 8 : mode == 2 ? 4 : mode == 3 ? 2 : 1;
    if (!mode || (descriptor >> 49 & 7)) fail("wgmma: a swizzle without base offset is expected");
    size_t byte = start + n % 8 * 2 + n / 8 % chunks * 16 + n / (8 * chunks) * leading + k % 8 * 16 * chunks + k / 8 * stride;
    byte ^= (byte >> 7 & (chunks - 1)) << 4;
    return bf16_of(*(const unsigned short*)(machine.shared + byte));
}
inline void run_product(void* const* lanes) {
    const Product& first = *(Product*)lanes[0];
    machine.counters.multiplies += first.columns / 8 * 4;
    std::vector<float> b(16 * first.columns);
    for (int k = 0; k < 16; k++)
        for (int n = 0; n < first.columns; n++) b[k * first.columns + n] = descriptor_at(first.descriptor, k, n);
    for (int warp = 0; warp < 4; warp++) {
        float a[16][16];
        for (int l = 0; l < WARP; l++)
            for (int r = 0; r < 4; r++)
                for (int i = 0; i < 2; i++)
                    a[l / 4 + 8 * (r & 1)][2 * (l % 4) + i + 8 * (r >> 1)] = half_of(((Product*)lanes[warp * WARP + l])->a[r], i);
        for (int l = 0; l < WARP; l++) {
            const Product& me = *(Product*)lanes[warp * WARP + l];
            if (me.descriptor != first.descriptor || me.columns != first.columns) fail("wgmma: threads of a warpgroup differ");
            for (int n = 0; n < me.columns / 8; n++)
                for (int r = 0; r < 4; r++) {
                    int row = l / 4 + 8 * (r >> 1), column = 8 * n + 2 * (l % 4) + (r & 1);
                    double sum = me.sums[4 * n + r];
                    for (int k = 0; k < 16; k++) sum += (double)a[row][k] * b[k * me.columns + column];
                    me.sums[4 * n + r] = (float)sum;
                }
        }
    }
}
inline void product_issue(float* sums, const unsigned* a, unsigned long long descriptor, int columns) {
    if (!self().fenced) fail("wgmma without wgmma.fence after a wait");
    if (machine.unproxied) fail("wgmma reads shared memory that was written without fence.proxy.async");
    self().products.push_back({sums, a, descriptor, columns, self().product_group});
}
inline void product_wait(int newest) {
    Fiber& me = self();
    size_t done = 0;
    while (done < me.products.size() && me.products[done].group < me.product_group - newest) {
        Product product = me.products[done++];
        collective(&product, run_product, WARPGROUP);
    }
    me.products.erase(me.products.begin(), me.products.begin() + done);
    if (newest == 0) me.fenced = false;
}

}  // namespace sim

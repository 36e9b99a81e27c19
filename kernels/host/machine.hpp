// Runs CUDA kernels on a CPU: every CUDA thread is a fiber.
//
// A fiber runs until it meets a collective (a barrier or a warp operation) and sleeps there until the
// last participant arrives; that one carries the operation out for all of them. A warp operation is
// therefore as atomic as on the device, and everything between two collectives runs in an order drawn
// from a seed: lanes are picked at random, and one warp runs as far ahead of the others as the block
// barriers permit, so a missing barrier shows as a wrong number. Shared memory starts as NaNs and is
// exactly as large as was asked for: an address sanitizer sees every overrun.
#pragma once
#include <setjmp.h>
#include <ucontext.h>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    unsigned count() const { return x * y * z; }
};

namespace sim {

constexpr int WARP = 32, WARPGROUP = 128;
constexpr size_t STACK = 64 << 10;
using Collective = void (*)(void* const* arguments);  // one argument a lane, all of them

struct Copy { void* to; const void* from; bool zero; int group; };  // a cp.async under way

/// A stack and where it stopped. After the first entry _setjmp and _longjmp switch, without the system
/// call that swapcontext makes; the address sanitizer only understands swapcontext.
struct Context {
    ucontext_t whole;
    jmp_buf registers;
    bool fresh = true;
};
inline void switch_to(Context& from, Context& to) {
#ifdef __SANITIZE_ADDRESS__
    swapcontext(&from.whole, &to.whole);
#else
    if (_setjmp(from.registers)) return;
    if (to.fresh) {
        to.fresh = false;
        setcontext(&to.whole);
    }
    _longjmp(to.registers, 1);
#endif
}

/// A wgmma under way: this lane's part.
struct Product {
    float* sums;
    const unsigned* a;
    unsigned long long descriptor;
    int columns, group;
};

struct Fiber {
    Context context;
    std::vector<char> stack = std::vector<char>(STACK);
    dim3 index;
    bool runnable = false, done = false;
    std::vector<Copy> copies;
    int group = 0;     // commits so far
    int barriers = 0;  // passed so far
    std::vector<unsigned char> written;  // 16-byte bank of each cp.async
    std::vector<Product> products;       // wgmma: issued, not waited for
    int product_group = 0;
    bool fenced = false;    // wgmma.fence since the last wait
    bool unproxied = false; // wrote shared memory that the asynchronous proxy does not see yet
};

/// A warp, or a warpgroup, on its way into one operation.
struct Team {
    void* arguments[WARPGROUP];
    Collective operation = nullptr;
    int arrived = 0;
};

/// What shared memory has to do, in wavefronts of at most 128 bytes: the ideal number and the real one.
struct Counters { long multiplies, loads, load_bytes, load_ideal, load_real, copies, copy_ideal, copy_real; };

/// Adds one access of eight lanes, 16 bytes each: lanes in one bank wait for each other.
inline void count_wavefronts(const unsigned char* banks, int lanes, long& ideal, long& real) {
    int used[8] = {}, most = 0;
    for (int i = 0; i < lanes; i++) most = std::max(most, ++used[banks[i]]);
    ideal++, real += most;
}

struct Machine {
    dim3 grid, block, block_index;
    std::vector<Fiber> fibers;
    std::vector<Team> warps, warpgroups;
    std::vector<int> priority;  // of warps, redrawn at every block barrier
    std::mt19937 random;
    Context scheduler;
    std::function<void()> body;
    unsigned char* shared = nullptr;
    int current = 0, at_barrier = 0, left = 0;
    bool unproxied = false;  // a thread passed a barrier without fence.proxy.async
    int skipped = -1;  // the barrier of this number does nothing: to prove that the checks notice
    Counters counters;
};
inline Machine machine;

[[noreturn]] inline void fail(const char* what) {
    fprintf(stderr, "sim: %s (block %u %u %u, thread %d)\n", what, machine.block_index.x,
            machine.block_index.y, machine.block_index.z, machine.current);
    abort();
}

inline Fiber& self() { return machine.fibers[machine.current]; }
inline unsigned char* shared() { return machine.shared; }
inline int lane() { return machine.current % WARP; }

inline void sleep() {
    Fiber& me = self();
    me.runnable = false;
    switch_to(me.context, machine.scheduler);
}

/// A warp operation: every lane brings an argument, the last one to arrive runs `operation` for all.
inline void collective(void* argument, Collective operation, int width = WARP) {
    int member = machine.current % width, first = machine.current - member;
    Team& team = (width == WARP ? machine.warps : machine.warpgroups)[machine.current / width];
    if (team.arrived && team.operation != operation) fail("lanes of a warp at different operations");
    team.operation = operation;
    team.arguments[member] = argument;
    if (++team.arrived < width) return sleep();
    operation(team.arguments);
    team.arrived = 0;
    for (int i = 0; i < width; i++) machine.fibers[first + i].runnable = true;
}

inline void shuffle_warps() { std::shuffle(machine.priority.begin(), machine.priority.end(), machine.random); }

inline void block_barrier() {
    machine.unproxied |= self().unproxied;
    if (self().barriers++ == machine.skipped) return;
    if (++machine.at_barrier < (int)machine.fibers.size()) return sleep();
    machine.at_barrier = 0;
    shuffle_warps();
    for (Fiber& fiber : machine.fibers) fiber.runnable = true;
}

/// cp.async: the target is garbage until the wait, the copy happens at the last moment allowed.
inline void copy_begin(void* to, const void* from, bool inside) {
    memset(to, 0xff, 16);
    self().copies.push_back({to, from, !inside, self().group});
    self().written.push_back((size_t)to / 16 % 8);
}
inline void copy_commit() { self().group++; }
inline void copy_wait(int newest) {
    Fiber& me = self();
    size_t kept = 0;
    for (const Copy& copy : me.copies) {
        if (copy.group >= me.group - newest) { me.copies[kept++] = copy; continue; }
        if (copy.zero) memset(copy.to, 0, 16);
        else memcpy(copy.to, copy.from, 16);
    }
    me.unproxied |= kept < me.copies.size();
    me.copies.resize(kept);
}

inline void entry() {
    machine.body();
    if (!self().copies.empty()) fail("a thread ended with copies under way");
    if (!self().products.empty()) fail("a thread ended with products under way");
    self().done = true;
    machine.left--;
    sleep();
}

inline void run_block(unsigned threads) {
    for (unsigned i = 0; i < threads; i++) {
        Fiber& fiber = machine.fibers[i];
        fiber.index = {i % machine.block.x, i / machine.block.x % machine.block.y,
                       i / (machine.block.x * machine.block.y)};
        fiber.done = false;
        fiber.runnable = true;
        fiber.group = fiber.barriers = fiber.product_group = 0;
        fiber.fenced = fiber.unproxied = false;
        fiber.written.clear();
        ucontext_t& whole = fiber.context.whole;
        getcontext(&whole);
        whole.uc_stack.ss_sp = fiber.stack.data();
        whole.uc_stack.ss_size = fiber.stack.size();
        whole.uc_link = nullptr;
        makecontext(&whole, entry, 0);
        fiber.context.fresh = true;
    }
    machine.scheduler.fresh = false;
    machine.left = threads;
    machine.at_barrier = 0;
    machine.unproxied = false;
    shuffle_warps();
    while (machine.left) {
        int ready[WARP], count = 0;
        for (int warp : machine.priority) {
            for (int i = 0; i < WARP; i++)
                if (machine.fibers[warp * WARP + i].runnable) ready[count++] = warp * WARP + i;
            if (count) break;
        }
        if (!count) fail("deadlock: some threads ended or wait where the others do not");
        std::shuffle(ready, ready + count, machine.random);
        for (int i = 0; i < count; i++) {
            machine.current = ready[i];
            switch_to(machine.scheduler, self().context);
        }
    }
}

/// The n-th cp.async of each eight neighbouring lanes is one access.
inline void count_copies() {
    for (size_t first = 0; first < machine.fibers.size(); first += 8)
        for (size_t n = 0; n < machine.fibers[first].written.size(); n++) {
            unsigned char banks[8];
            int lanes = 0;
            for (int i = 0; i < 8; i++)
                if (n < machine.fibers[first + i].written.size()) banks[lanes++] = machine.fibers[first + i].written[n];
            count_wavefronts(banks, lanes, machine.counters.copy_ideal, machine.counters.copy_real);
            machine.counters.copies += lanes;
        }
}

/// Runs `body` as a kernel: `launch(grid, block, bytes of dynamic shared memory, seed, [&] { kernel(arguments); })`.
/// Equal seeds give equal orders, of blocks too.
template <class Body>
void launch(dim3 grid, dim3 block, size_t shared_bytes, unsigned seed, Body body) {
    unsigned threads = block.count();
    if (threads % WARP) fail("whole warps only");
    machine.grid = grid;
    machine.block = block;
    machine.body = body;
    machine.random.seed(seed);
    machine.fibers.resize(threads);
    machine.warps.assign(threads / WARP, Team());
    machine.warpgroups.assign(threads / WARPGROUP, Team());
    machine.priority.resize(threads / WARP);
    std::iota(machine.priority.begin(), machine.priority.end(), 0);
    std::vector<unsigned> order(grid.count());
    std::iota(order.begin(), order.end(), 0u);
    std::shuffle(order.begin(), order.end(), machine.random);
    for (unsigned b : order) {
        machine.block_index = {b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)};
        void* memory = nullptr;
        if (posix_memalign(&memory, 1024, shared_bytes ? shared_bytes : 1)) fail("no memory");
        memset(memory, 0xff, shared_bytes);
        machine.shared = (unsigned char*)memory;
        run_block(threads);
        count_copies();
        free(memory);
    }
}

}  // namespace sim

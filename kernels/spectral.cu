// Spectral normalisation of every layer of every model: one power iteration, and the gradient through it.
//
//   v = W^T u / |.|, u' = W v / |.|, sigma = |W v| = u'^T W v;   dW = (dW^ - (dW^ . W / sigma) u' v^T) / sigma
// W lies as taps x inputs x outputs and is seen as (one axis) x (the rest): the outputs, or with `by_inputs` the inputs (a transposed
// convolution). v has the order of the rest: taps x inputs, or taps x outputs. |.| is at least 1e-12. u' replaces u where `training`.
// Source: Miyato et al. 2018, algorithm 1.
//
// All layers share three launches (a later one needs a norm, or sums, of the whole of an earlier one): spectral_v and
// spectral_u read every weight once each, spectral_finish reads vectors only. The gradient takes two: spectral_dot reads dW^ and W,
// spectral_gradient reads and writes dW^ (W is not read again). Work is cut into tasks of about 2^16 weights by tables in device
// memory (host/tables.hpp), which depend on the sizes alone; sums: threads in f32, warps, blocks and tasks in f64, in order.
//
// Offsets in the table are in numbers from the buffers of model 0; `trained`, `statistics`, `vectors` and `parts` are the
// distances from model to model. Launch: (tasks, 1, models) x 256, 2048 bytes; finish (layers, 1, models) x 256, 2048 bytes.
#include "maps.cuh"

struct SpectralLayer {
    long long weight, u, v;      // in the trained numbers; in the statistics, and in `vectors` (u' and v)
    long long next;              // u' in `vectors`
    long long part;              // in `parts`: u_parts x axis doubles
    long long norm;              // in `parts`: one double for each task of v
    long long dot;               // in `parts`: one double for each task of the gradient
    int taps, inputs, outputs, by_inputs;
    int v_tasks, u_parts, dot_tasks, first_dot_task;
};
struct SpectralTask { int layer, row, rows, column, number; };

struct Spectral {
    const SpectralLayer* layers;
    const SpectralTask* tasks;
    const float* weights;
    float* gradients;
    float* statistics;
    float* vectors;
    double* parts;
    float* sigma;    // models x layers
    float* inverse;  // 1 / sigma, the factor of the convolutions
    long long trained_pitch, statistics_pitch, vectors_pitch, parts_pitch;
    int layer_count, training;
};

/// The sum over a block of 256, in the order of halves, for every thread.
__device__ __forceinline__ double spectral_block_sum(double value, double* shared) {
    int thread = threadIdx.x;
    shared[thread] = value;
    for (int half = MAP_THREADS / 2; half; half /= 2) {
        __syncthreads();
        if (thread < half) shared[thread] += shared[thread + half];
    }
    __syncthreads();
    return shared[0];
}

/// For every row of a task: its product with a vector of `outputs`; a warp a row. Gives the sum of their squares that a thread knows.
__device__ __forceinline__ double spectral_rows(const float* w, const float* vector, int outputs, int rows, float* to, double* to_wide) {
    int lane = threadIdx.x % 32;
    double squares = 0;
    for (int row = threadIdx.x / 32; row < rows; row += MAP_THREADS / 32) {
        float sum = 0.f;
        UNROLL_BY(4)
        for (int o = lane; o < outputs; o += 32) sum = fmaf(w[(size_t)row * outputs + o], vector[o], sum);
        double all = sum;
        UNROLL
        for (int mask = 16; mask; mask /= 2) all += __shfl_xor_sync(~0u, all, mask);
        if (lane == 0) {
            if (to) to[row] = (float)all, squares += (double)to[row] * to[row];
            else to_wide[row] = all;
        }
    }
    return squares;
}

/// Sums over rows of 64 columns, row r times vector[r]: whole in the threads of row lane 0, for their column.
__device__ __forceinline__ double spectral_columns(const float* w, const float* vector, int outputs, int column, int rows, double* shared) {
    int x = threadIdx.x % 64, y = threadIdx.x / 64;
    float sum = 0.f;
    if (column + x < outputs) {
        UNROLL_BY(4)
        for (int row = y; row < rows; row += 4) sum = fmaf(w[(size_t)row * outputs + column + x], vector[row], sum);
    }
    shared[threadIdx.x] = sum;
    __syncthreads();
    return shared[x] + shared[64 + x] + (shared[128 + x] + shared[192 + x]);
}

/// v, not yet divided by its norm, and the norm's square of each task.
extern "C" __global__ void __launch_bounds__(256) spectral_v(Spectral p) {
    double* shared = map_shared();
    SpectralTask task = p.tasks[blockIdx.x];
    SpectralLayer of = p.layers[task.layer];
    const float* w = p.weights + blockIdx.z * p.trained_pitch + of.weight;
    const float* u = p.statistics + blockIdx.z * p.statistics_pitch + of.u;
    float* v = p.vectors + blockIdx.z * p.vectors_pitch + of.v;
    double squares = 0;
    if (of.by_inputs) {
        // `row` is a tap, all of whose inputs are added.
        double sum = spectral_columns(w + (size_t)task.row * of.inputs * of.outputs, u, of.outputs, task.column, of.inputs, shared);
        if (threadIdx.x < 64 && task.column + (int)threadIdx.x < of.outputs) {
            float value = (float)sum;
            v[(size_t)task.row * of.outputs + task.column + threadIdx.x] = value;
            squares = (double)value * value;
        }
        __syncthreads();
    } else {
        squares = spectral_rows(w + (size_t)task.row * of.outputs, u, of.outputs, task.rows, v + task.row, nullptr);
    }
    double all = spectral_block_sum(squares, shared);
    if (threadIdx.x == 0) p.parts[blockIdx.z * p.parts_pitch + of.norm + task.number] = all;
}

/// Parts of W v, v not yet divided.
extern "C" __global__ void __launch_bounds__(256) spectral_u(Spectral p) {
    double* shared = map_shared();
    SpectralTask task = p.tasks[blockIdx.x];
    SpectralLayer of = p.layers[task.layer];
    const float* w = p.weights + blockIdx.z * p.trained_pitch + of.weight + (size_t)task.row * of.outputs;
    const float* v = p.vectors + blockIdx.z * p.vectors_pitch + of.v;
    double* part = p.parts + blockIdx.z * p.parts_pitch + of.part;
    if (of.by_inputs) {
        // Rows of one tap; the parts of a row's sum are the taps.
        spectral_rows(w, v + (size_t)(task.row / of.inputs) * of.outputs, of.outputs, task.rows, nullptr, part + task.row);
    } else {
        double sum = spectral_columns(w, v + task.row, of.outputs, task.column, task.rows, shared);
        if (threadIdx.x < 64 && task.column + (int)threadIdx.x < of.outputs) part[(size_t)task.number * of.outputs + task.column + threadIdx.x] = sum;
    }
}

extern "C" __global__ void __launch_bounds__(256) spectral_finish(Spectral p) {
    double* shared = map_shared();
    SpectralLayer of = p.layers[blockIdx.x];
    float* vectors = p.vectors + blockIdx.z * p.vectors_pitch;
    double* parts = p.parts + blockIdx.z * p.parts_pitch;
    int axis = of.by_inputs ? of.inputs : of.outputs, rest = of.taps * (of.by_inputs ? of.outputs : of.inputs), thread = threadIdx.x;
    double sum = 0;
    for (int task = thread; task < of.v_tasks; task += MAP_THREADS) sum += parts[of.norm + task];
    double norm = max(sqrt(spectral_block_sum(sum, shared)), 1e-12);
    for (int i = thread; i < rest; i += MAP_THREADS) vectors[of.v + i] = (float)((double)vectors[of.v + i] / norm);
    sum = 0;
    for (int i = thread; i < axis; i += MAP_THREADS) {
        double value = 0;
        for (int part = 0; part < of.u_parts; part++) value += parts[of.part + (size_t)part * axis + i];
        float next = (float)(value / norm);
        vectors[of.next + i] = next;
        sum += (double)next * next;
    }
    __syncthreads();
    double sigma = sqrt(spectral_block_sum(sum, shared));
    if (thread == 0) {
        p.sigma[blockIdx.z * p.layer_count + blockIdx.x] = (float)sigma;
        p.inverse[blockIdx.z * p.layer_count + blockIdx.x] = 1.f / (float)sigma;
    }
    for (int i = thread; i < axis; i += MAP_THREADS) {
        float next = (float)((double)vectors[of.next + i] / max(sigma, 1e-12));
        vectors[of.next + i] = next;
        if (p.training) p.statistics[blockIdx.z * p.statistics_pitch + of.u + i] = next;
    }
}

/// dW^ . W of each task: `row` is its first number, `rows` how many.
extern "C" __global__ void __launch_bounds__(256) spectral_dot(Spectral p) {
    double* shared = map_shared();
    SpectralTask task = p.tasks[blockIdx.x];
    SpectralLayer of = p.layers[task.layer];
    size_t first = blockIdx.z * p.trained_pitch + of.weight + task.row;
    float sum = 0.f;
    UNROLL_BY(4)
    for (int i = threadIdx.x; i < task.rows; i += MAP_THREADS) sum = fmaf(p.gradients[first + i], p.weights[first + i], sum);
    double all = spectral_block_sum(sum, shared);
    if (threadIdx.x == 0) p.parts[blockIdx.z * p.parts_pitch + of.dot + task.number] = all;
}

extern "C" __global__ void __launch_bounds__(256) spectral_gradient(Spectral p) {
    double* shared = map_shared();
    SpectralTask task = p.tasks[blockIdx.x];
    SpectralLayer of = p.layers[task.layer];
    const double* parts = p.parts + blockIdx.z * p.parts_pitch + of.dot;
    double sum = 0;
    for (int other = threadIdx.x; other < of.dot_tasks; other += MAP_THREADS) sum += parts[other];
    double all = spectral_block_sum(sum, shared);
    float sigma = p.sigma[blockIdx.z * p.layer_count + task.layer], inverse = 1.f / sigma, along = (float)(all / (double)sigma);
    const float* vectors = p.vectors + blockIdx.z * p.vectors_pitch;
    const float *u = vectors + of.next, *v = vectors + of.v;
    float* gradient = p.gradients + blockIdx.z * p.trained_pitch + of.weight;
    for (int i = threadIdx.x; i < task.rows; i += MAP_THREADS) {
        int at = task.row + i, row = at / of.outputs, o = at - row * of.outputs;
        float product;
        if (of.by_inputs) {
            int tap = row / of.inputs;
            product = along * u[row - tap * of.inputs] * v[tap * of.outputs + o];
        } else {
            product = along * v[row] * u[o];
        }
        gradient[at] = (gradient[at] - product) * inverse;
    }
}

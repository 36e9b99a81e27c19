// Memory and launches, the same on both sides: nvcc makes them CUDA's, a host compiler the shim's.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace runtime {

inline unsigned seed = 1;  // of the order of threads on the host; every launch takes the next

#ifdef __CUDACC__
inline void check(cudaError_t code, const char* what) {
    if (code == cudaSuccess) return;
    fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(code));
    exit(3);
}
/// Memory that was given back is used again without a word to the driver.
inline void keep_memory() {
    static bool done = false;
    if (done) return;
    done = true;
    cudaMemPool_t pool;
    unsigned long long all = ~0ull;
    check(cudaDeviceGetDefaultMemPool(&pool, 0), "memory pool");
    check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &all), "memory pool");
}
#endif

/// Memory of the device. What was not written is NaN.
template <class T>
class Buffer {
  public:
    explicit Buffer(size_t count = 0) : count_(count) {
        if (!count) return;
#ifdef __CUDACC__
        keep_memory();
        check(cudaMallocAsync(&data_, count * sizeof(T), 0), "memory");
        check(cudaMemset(data_, 0xff, count * sizeof(T)), "memory");
#else
        void* memory = nullptr;
        if (posix_memalign(&memory, 256, count * sizeof(T))) exit(3);
        memset(memory, 0xff, count * sizeof(T));
        data_ = (T*)memory;
#endif
    }
    explicit Buffer(const std::vector<T>& from) : Buffer(from.size()) { upload(from); }
    Buffer(Buffer&& other) noexcept : data_(other.data_), count_(other.count_) { other.data_ = nullptr, other.count_ = 0; }
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(data_, other.data_), std::swap(count_, other.count_);
        return *this;
    }
    ~Buffer() {
#ifdef __CUDACC__
        if (data_) cudaFreeAsync(data_, 0);
#else
        free(data_);
#endif
    }
    T* data() const { return data_; }
    size_t size() const { return count_; }
    void upload(const std::vector<T>& from) {
#ifdef __CUDACC__
        check(cudaMemcpy(data_, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice), "upload");
#else
        if (!from.empty()) memcpy(data_, from.data(), from.size() * sizeof(T));
#endif
    }
    std::vector<T> download() const {
        std::vector<T> to(count_);
#ifdef __CUDACC__
        check(cudaMemcpy(to.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost), "download");
#else
        if (count_) memcpy(to.data(), data_, count_ * sizeof(T));
#endif
        return to;
    }
    void zero() {
#ifdef __CUDACC__
        check(cudaMemset(data_, 0, count_ * sizeof(T)), "zero");
#else
        if (count_) memset(data_, 0, count_ * sizeof(T));
#endif
    }

  private:
    T* data_ = nullptr;
    size_t count_;
};

}  // namespace runtime

/// LAUNCH(kernel, x, y, z blocks, threads, bytes of shared memory, arguments).
#ifdef __CUDACC__
#define LAUNCH(kernel, x, y, z, threads, bytes, ...)                                       \
    do {                                                                                   \
        kernel<<<dim3((x), (y), (z)), dim3(threads), (bytes)>>>(__VA_ARGS__);              \
        runtime::check(cudaGetLastError(), #kernel);                                       \
    } while (0)
#else
#define LAUNCH(kernel, x, y, z, threads, bytes, ...)                                                                    \
    sim::launch(dim3{(unsigned)(x), (unsigned)(y), (unsigned)(z)}, dim3{(unsigned)(threads), 1, 1}, (bytes), runtime::seed++, \
                [&] { kernel(__VA_ARGS__); })
#endif

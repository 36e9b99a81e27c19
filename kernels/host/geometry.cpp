// Prints how each convolution kernel is launched, one JSON object a line: for programs that launch them.
//   tile: voxels (of the smaller map for UP, of the larger one divided by the stride for DOWN) that a block computes.
#include "../conv_tile.cu"
#include "../conv_thin.cu"
#include "../conv_wide.cu"

template <class S>
static void forward(const char* name, const char* kind, int blocks) {
    printf("{\"name\": \"%s\", \"family\": \"forward\", \"kind\": \"%s\", \"inputs\": %d, \"outputs\": %d, \"tile\": [%d, %d, %d], "
           "\"threads\": %d, \"shared\": %d, \"blocks\": %d}\n", name, kind, S::CIN, S::COUT, S::TZ, S::TY, S::TX, S::THREADS, S::SHARED, blocks);
}

int main() {
#define PRINT(name, kind, in, out, tz, ty, tx, wn, stages, blocks) forward<name##_shape>(#name, #kind, blocks);
    FORWARDS(PRINT)
    GROUPED_FORWARDS(PRINT)
    forward<pair_32_2_shape>("pair_32_2", "PLAIN", 2);
#define PRINT_GRADIENT(name, kind, in, out, tz, ty, tx, blocks)                                                                           \
    printf("{\"name\": \"" #name "\", \"family\": \"gradient\", \"kind\": \"" #kind "\", \"inputs\": %d, \"outputs\": %d, \"tile\": [%d, %d, %d], " \
           "\"threads\": %d, \"shared\": %d, \"blocks\": %d, \"parts\": %d, \"classes\": %d}\n", in, out, tz, ty, tx, name##_shape::THREADS,             \
           name##_shape::SHARED, blocks, in / 32 * (out / 32), name##_shape::CLASSES);
    GRADIENTS(PRINT_GRADIENT)
#define PRINT_WIDE(name, kind, dimensions, columns, tz, ty, tx, lead)                                                                       \
    printf("{\"name\": \"" #name "\", \"family\": \"wide\", \"kind\": \"" #kind "\", \"dimensions\": %d, \"columns\": %d, \"tile\": [%d, %d, %d], "     \
           "\"threads\": %d, \"shared\": %d, \"blocks\": 1}\n", dimensions, columns, tz, ty, tx, name##_shape::THREADS, name##_shape::SHARED);
    WIDES(PRINT_WIDE)
#define PRINT_THIN(name, dx, dw, ty, warps, blocks)                                                                                        \
    printf("{\"name\": \"" #name "\", \"family\": \"thin\", \"dx\": %s, \"dw\": %s, \"tile\": [%d, %d], \"threads\": %d, \"shared\": %d, \"blocks\": %d}\n", \
           dx ? "true" : "false", dw ? "true" : "false", name##_shape::TY, name##_shape::TX,                           \
           name##_shape::THREADS, dw ? name##_shape::SHARED_DW : name##_shape::SHARED, blocks);
    THINS(PRINT_THIN)
}

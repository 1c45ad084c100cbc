// Convolutions of 3 × 3 by Winograd's F(4 × 4, 3 × 3) (Lavin and Gray, arXiv:1509.09308), and instance norm with ReLU and
// average pool. Images are (N, S, S, C). Each function works on 16 channels at a time, in parallel over the images;
// arithmetic is fp32, storage T: fp32, or bf16 with -DBF16. `fused.py` compiles and calls it.
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef float V __attribute__((vector_size(64)));
typedef int32_t I __attribute__((vector_size(64)));
#ifdef BF16
typedef uint16_t T;
typedef uint16_t H __attribute__((vector_size(32)));
typedef uint32_t U __attribute__((vector_size(64)));
static inline V load(const T *p) { H h; memcpy(&h, p, sizeof h); return (V)(__builtin_convertvector(h, U) << 16); }
static inline void store(T *p, V x) {  // rounds to nearest, ties to even
    U bits = (U)x;
    H h = __builtin_convertvector((bits + 0x7fff + (bits >> 16 & 1)) >> 16, H);
    memcpy(p, &h, sizeof h);
}
#else
typedef float T;
static inline V load(const T *p) { V x; memcpy(&x, p, sizeof x); return x; }
static inline void store(T *p, V x) { memcpy(p, &x, sizeof x); }
#endif
static inline V loadf(const float *p) { V x; memcpy(&x, p, sizeof x); return x; }
static inline void storef(float *p, V x) { memcpy(p, &x, sizeof x); }

static inline void to_input(const V *d, V *v) {  // B'd
    v[0] = 4 * d[0] - 5 * d[2] + d[4];
    v[1] = d[3] + d[4] - 4 * (d[1] + d[2]);
    v[2] = d[4] - d[3] + 4 * (d[1] - d[2]);
    v[3] = d[4] - d[2] + 2 * (d[3] - d[1]);
    v[4] = d[4] - d[2] - 2 * (d[3] - d[1]);
    v[5] = 4 * d[1] - 5 * d[3] + d[5];
}
static inline void to_output(const V *m, V *y) {  // A'm
    V s = m[1] + m[2], r = m[1] - m[2], p = m[3] + m[4], q = m[3] - m[4];
    y[0] = m[0] + s + p; y[1] = r + 2 * q; y[2] = s + 4 * p; y[3] = r + 8 * q + m[5];
}
static inline void to_gradient(const V *y, V *m) {  // Ay
    V s = y[0] + y[2], r = y[1] + y[3], p = y[0] + 4 * y[2], q = 2 * y[1] + 8 * y[3];
    m[0] = y[0]; m[1] = s + r; m[2] = s - r; m[3] = p + q; m[4] = p - q; m[5] = y[3];
}
#define BOTH_WAYS(f, from, to, in, out) do { \
    V half[6][6], row[6]; \
    for (int j = 0; j < from; j++) { V col[6]; for (int i = 0; i < from; i++) col[i] = in[i][j]; \
        f(col, row); for (int i = 0; i < to; i++) half[i][j] = row[i]; } \
    for (int i = 0; i < to; i++) f(half[i], out[i]); } while (0)
#define FOR_TILES \
    _Pragma("omp parallel for collapse(2) num_threads(threads)") \
    for (int n = 0; n < images; n++) for (int a = 0; a < side / 4; a++) \
    for (int b = 0; b < side / 4; b++) for (int c = 0; c < channels; c += 16)
#define PIXEL(y, x) ((((long)n * side + (y)) * side + (x)) * channels + c)
#define SPOT(k) ((((long)(k) * images + n) * (side / 4) + a) * (side / 4) + b) * channels + c

void input_tiles(const T *x, T *v, int images, int side, int channels, int threads) {  // to (36, tiles, C)
    FOR_TILES {
        V in[6][6], out[6][6];
        for (int i = 0; i < 6; i++) for (int j = 0; j < 6; j++) {
            int y = 4 * a + i - 1, z = 4 * b + j - 1;
            in[i][j] = y < 0 || y >= side || z < 0 || z >= side ? (V){0} : load(x + PIXEL(y, z));
        }
        BOTH_WAYS(to_input, 6, 6, in, out);
        for (int k = 0; k < 36; k++) store(v + SPOT(k), out[k / 6][k % 6]);
    }
}
void output_tiles(const T *m, T *y, int images, int side, int channels, int threads) {  // back to (N, S, S, C)
    FOR_TILES {
        V in[6][6], out[6][6];
        for (int k = 0; k < 36; k++) in[k / 6][k % 6] = load(m + SPOT(k));
        BOTH_WAYS(to_output, 6, 4, in, out);
        for (int i = 0; i < 4; i++) for (int j = 0; j < 4; j++) store(y + PIXEL(4 * a + i, 4 * b + j), out[i][j]);
    }
}
void gradient_tiles(const T *g, T *m, int images, int side, int channels, int threads) {  // adjoint of output_tiles
    FOR_TILES {
        V in[6][6], out[6][6];
        for (int i = 0; i < 4; i++) for (int j = 0; j < 4; j++) in[i][j] = load(g + PIXEL(4 * a + i, 4 * b + j));
        BOTH_WAYS(to_gradient, 4, 6, in, out);
        for (int k = 0; k < 36; k++) store(m + SPOT(k), out[k / 6][k % 6]);
    }
}

#define FOR_CHANNELS \
    _Pragma("omp parallel for num_threads(threads)") \
    for (int n = 0; n < images; n++) for (int c = 0; c < channels; c += 16)
#define FOR_PIXELS for (int y = 0; y < side; y++) for (int z = 0; z < side; z++)
#define POOLED ((((long)n * (side / pool) + y / pool) * (side / pool) + z / pool) * channels + c)

void norm(const T *x, const float *weight, const float *bias, T *out, float *stats, int images, int side, int channels,
          float epsilon, int relu, int pool, int threads) {  // stats (N, 2, C): mean and 1/deviation
    float share = 1.0f / (side * side), part = 1.0f / (pool * pool);
    FOR_CHANNELS {
        V mean = {0}, square = {0}, rate;
        FOR_PIXELS mean += load(x + PIXEL(y, z));
        mean *= share;
        FOR_PIXELS { V d = load(x + PIXEL(y, z)) - mean; square += d * d; }
        for (int k = 0; k < 16; k++) rate[k] = 1 / sqrtf(square[k] * share + epsilon);
        storef(stats + (2L * n) * channels + c, mean);
        storef(stats + (2L * n + 1) * channels + c, rate);
        V slope = rate * loadf(weight + c), shift = loadf(bias + c) - mean * slope;
        for (int y = 0; y < side; y += pool) for (int z = 0; z < side; z += pool) {
            V sum = {0};
            for (int i = 0; i < pool; i++) for (int j = 0; j < pool; j++) {
                V t = load(x + PIXEL(y + i, z + j)) * slope + shift;
                sum += relu ? (V)((I)t & (t > 0)) : t;
            }
            store(out + POOLED, sum * part);
        }
    }
}
void norm_backward(const T *g, const T *x, const float *weight, const float *bias, const float *stats, T *dx,
                   float *sums, int images, int side, int channels, int relu, int pool, int threads) {
    // sums (N, 2, C): of each image the gradients of bias and weight
    float share = 1.0f / (side * side), part = 1.0f / (pool * pool);
    FOR_CHANNELS {
        V mean = loadf(stats + (2L * n) * channels + c), rate = loadf(stats + (2L * n + 1) * channels + c);
        V w = loadf(weight + c), b = loadf(bias + c), first = {0}, second = {0};
        FOR_PIXELS {
            V h = (load(x + PIXEL(y, z)) - mean) * rate, d = load(g + POOLED) * part;
            if (relu) d = (V)((I)d & (h * w + b > 0));
            first += d; second += d * h;
        }
        storef(sums + (2L * n) * channels + c, first);
        storef(sums + (2L * n + 1) * channels + c, second);
        FOR_PIXELS {
            V h = (load(x + PIXEL(y, z)) - mean) * rate, d = load(g + POOLED) * part;
            if (relu) d = (V)((I)d & (h * w + b > 0));
            store(dx + PIXEL(y, z), w * rate * (d - share * (first + h * second)));
        }
    }
}

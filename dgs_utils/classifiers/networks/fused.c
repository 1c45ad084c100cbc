// Convolutions of 3 × 3 by Winograd's F(4 × 4, 3 × 3) (Lavin and Gray, arXiv:1509.09308), or directly where there are 3
// channels, and instance norm with ReLU and average pool. Images are (N, S, S, C). Each function works on a vector of
// channels at a time; arithmetic is fp32, storage T: fp32, or bf16 with -DBF16. With -DDOT products of tiles are made of
// pairs of bf16, where the processor multiplies these faster. `fused.py` compiles and calls it.
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ROWS (LANES / 2)  // of a product that stay in registers, two vectors each
#define EACH(steps) _Pragma("GCC unroll 32") for (steps)  // in registers
#ifndef SCRATCH
#define SCRATCH (1 << 21)
#endif
typedef float V __attribute__((vector_size(4 * LANES)));
typedef int32_t I __attribute__((vector_size(4 * LANES)));
typedef uint16_t H __attribute__((vector_size(2 * LANES)));
typedef uint32_t U __attribute__((vector_size(4 * LANES)));
static inline U rounded(V x) { U bits = (U)x; return bits + 0x7fff + (bits >> 16 & 1); }  // to nearest, ties to even
#ifdef BF16
typedef uint16_t T;
static inline V load(const T *p) { H h; memcpy(&h, p, sizeof h); return (V)(__builtin_convertvector(h, U) << 16); }
static inline void store(T *p, V x) { H h = __builtin_convertvector(rounded(x) >> 16, H); memcpy(p, &h, sizeof h); }
#else
typedef float T;
static inline V load(const T *p) { V x; memcpy(&x, p, sizeof x); return x; }
static inline void store(T *p, V x) { memcpy(p, &x, sizeof x); }
#endif
static inline V loadf(const float *p) { V x; memcpy(&x, p, sizeof x); return x; }
static inline void storef(float *p, V x) { memcpy(p, &x, sizeof x); }

// Tiles are words of 32 bits: a number, or with -DDOT a pair of them, of two channels or of two tiles.
#ifdef DOT
#include <immintrin.h>
#define PAIR 2
static inline V dot(V sum, V a, V b) { return (V)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b); }
static inline void store_word(float *p, V x, int second, int of_tiles) {
    U bits = rounded(x), first = {0};
    if (of_tiles) {
        if (second) { memcpy(&first, p, sizeof first); bits = (bits & 0xffff0000) | first; } else bits >>= 16;
        memcpy(p, &bits, sizeof bits);
    } else { H h = __builtin_convertvector(bits >> 16, H); memcpy(p, &h, sizeof h); }
}
#else
#define PAIR 1
static inline V dot(V sum, V a, V b) { return sum + a * b; }
static inline void store_word(float *p, V x, int second, int of_tiles) { storef(p, x); }
#endif

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
static inline void to_kernel(const V *g, V *v) {  // Gg
    V s = g[0] + g[2], p = (g[0] + 4 * g[2]) / 24;
    v[0] = g[0] / 4; v[1] = (s + g[1]) / -6; v[2] = (g[1] - s) / 6; v[3] = p + g[1] / 12; v[4] = p - g[1] / 12; v[5] = g[2];
}
static inline void from_kernel(const V *v, V *g) {  // G'v
    V s = v[1] + v[2], p = v[3] + v[4];
    g[0] = v[0] / 4 - s / 6 + p / 24; g[1] = (v[2] - v[1]) / 6 + (v[3] - v[4]) / 12; g[2] = (p - s) / 6 + v[5];
}
#define BOTH_WAYS(f, from, to, in, out) do { \
    V half[6][6], row[6]; \
    for (int j = 0; j < from; j++) { V col[6]; for (int i = 0; i < from; i++) col[i] = in[i][j]; \
        f(col, row); for (int i = 0; i < to; i++) half[i][j] = row[i]; } \
    for (int i = 0; i < to; i++) f(half[i], out[i]); } while (0)
#define PIXEL(y, z) ((((long)n * side + (y)) * side + (z)) * channels + c)
#define FOR_TILES(last) \
    _Pragma("omp for schedule(static, 2)") \
    for (int t = 0; t < (last); t++) \
    for (int at = begin + t, tiles = side / 4, n = at / (tiles * tiles), a = at / tiles % tiles, b = at % tiles, c = 0; \
         c < channels; c += LANES)

// (36, C / LANES, spots, words)
static inline long spot(int k, int c, int t, int channels, int spots, int of_tiles) {
    long row = (long)k * (channels / LANES) + c / LANES;
    return of_tiles ? (row * (spots / PAIR) + t / PAIR) * LANES : (row * spots + t) * (LANES / PAIR);
}
static inline void input_tiles(const T *x, float *v, int begin, int count, int spots, int side, int channels,
                               int of_tiles) {
    FOR_TILES(count) {
        V in[6][6], out[6][6];
        for (int i = 0; i < 6; i++) for (int j = 0; j < 6; j++) {
            int y = 4 * a + i - 1, z = 4 * b + j - 1;
            in[i][j] = y < 0 || y >= side || z < 0 || z >= side ? (V){0} : load(x + PIXEL(y, z));
        }
        BOTH_WAYS(to_input, 6, 6, in, out);
        for (int k = 0; k < 36; k++)
            store_word(v + spot(k, c, t, channels, spots, of_tiles), out[k / 6][k % 6], t & 1, of_tiles);
    }
}
// A product of ROWS rows of a by two vectors of columns of b, whose distance is far.
static inline __attribute__((always_inline)) void product(
    const float *a, long row, long step, long block, int inner, int outer, const float *b, long far, float *out,
    long out_far, int add) {
    V sum[ROWS][2];
    EACH(int r = 0; r < ROWS; r++) EACH(int j = 0; j < 2; j++)
        sum[r][j] = add ? loadf(out + r * LANES + j * out_far) : (V){0};
    for (int o = 0; o < outer; o++) for (int i = 0; i < inner; i++, b += LANES) {
        V left = loadf(b), right = loadf(b + far);
        EACH(int r = 0; r < ROWS; r++) {
            int32_t word;
            memcpy(&word, a + o * block + i * step + r * row, 4);
            V one = (V)(word | (I){0});
            sum[r][0] = dot(sum[r][0], one, left);
            sum[r][1] = dot(sum[r][1], one, right);
        }
    }
    EACH(int r = 0; r < ROWS; r++) EACH(int j = 0; j < 2; j++) storef(out + r * LANES + j * out_far, sum[r][j]);
}
static int chunk(int inputs, int outputs, int all) {  // tiles that a cache holds; a multiple of ROWS
    int fit = (SCRATCH / (36 * 4) / (inputs + outputs)) / ROWS * ROWS, needed = (all + ROWS - 1) / ROWS * ROWS;
    fit = fit < ROWS ? ROWS : fit;
    return fit < needed ? fit : needed;
}

#define FOR_KERNELS \
    _Pragma("omp for") \
    for (int c = 0; c < outputs; c += LANES) for (int t = 0; t < inputs; t++)
#define TAP(l, i, j) kernel[mirrored ? (t * outputs + c + (l)) * 9 + 8 - 3 * (i) - (j) \
                                     : ((c + (l)) * inputs + t) * 9 + 3 * (i) + (j)]
#define FOR_PRODUCTS(rows) \
    _Pragma("omp for") \
    for (int k = 0; k < 36; k++) for (int c = 0; c < outputs; c += 2 * LANES) for (int r = 0; r < (rows); r += ROWS)

void winograd(const T *x, const float *kernel, T *y, int images, int side, int inputs, int outputs, int mirrored,
              int threads) {  // by a kernel (K, C, 3, 3), or by the adjoint of one (C, K, 3, 3)
    int all = images * (side / 4) * (side / 4), spots = chunk(inputs, outputs, all), channels = outputs;
    float *v = malloc(36L * spots * inputs * 4), *m = malloc(36L * spots * outputs * 4);
    float *u = malloc(36L * inputs * outputs * 4);
    _Pragma("omp parallel num_threads(threads)") {
    FOR_KERNELS {
        V in[6][6], out[6][6];
        for (int i = 0; i < 3; i++) for (int j = 0; j < 3; j++)
            for (int l = 0; l < LANES; l++) in[i][j][l] = TAP(l, i, j);
        BOTH_WAYS(to_kernel, 3, 6, in, out);
        for (int k = 0; k < 36; k++) store_word(u + spot(k, c, t, outputs, inputs, 1), out[k / 6][k % 6], t & 1, 1);
    }
    for (int begin = 0; begin < all; begin += spots) {
        int count = all - begin < spots ? all - begin : spots;
        input_tiles(x, v, begin, count, spots, side, inputs, 0);
        FOR_PRODUCTS(count)
            product(v + spot(k, 0, r, inputs, spots, 0), LANES / PAIR, 1, (long)spots * LANES / PAIR, LANES / PAIR,
                    inputs / LANES, u + spot(k, c, 0, outputs, inputs, 1), (long)inputs / PAIR * LANES,
                    m + ((long)k * outputs + c) * spots + r * LANES, (long)spots * LANES, 0);
        FOR_TILES(count) {
            V in[6][6], out[6][6];
            for (int k = 0; k < 36; k++) in[k / 6][k % 6] = loadf(m + ((long)k * outputs + c) * spots + t * LANES);
            BOTH_WAYS(to_output, 6, 4, in, out);
            for (int i = 0; i < 4; i++) for (int j = 0; j < 4; j++) store(y + PIXEL(4 * a + i, 4 * b + j), out[i][j]);
        }
    }
    }
    free(u); free(v); free(m);
}
void winograd_kernel(const T *x, const T *g, float *kernel, int images, int side, int inputs, int outputs, int threads) {
    // the gradient of the kernel (K, C, 3, 3)
    int all = images * (side / 4) * (side / 4), spots = chunk(inputs, outputs, all), channels = outputs, mirrored = 0;
    float *v = malloc(36L * spots * inputs * 4), *m = malloc(36L * spots * outputs * 4);
    float *u = malloc(36L * inputs * outputs * 4);
    _Pragma("omp parallel num_threads(threads)") {
    for (int begin = 0; begin < all; begin += spots) {
        int count = all - begin < spots ? all - begin : spots;
        input_tiles(x, v, begin, count, spots, side, inputs, 1);
        FOR_TILES(count) {  // adjoint of the output's map
            V in[6][6], out[6][6];
            for (int i = 0; i < 4; i++) for (int j = 0; j < 4; j++) in[i][j] = load(g + PIXEL(4 * a + i, 4 * b + j));
            BOTH_WAYS(to_gradient, 4, 6, in, out);
            for (int k = 0; k < 36; k++) store_word(m + spot(k, c, t, outputs, spots, 1), out[k / 6][k % 6], t & 1, 1);
        }
        FOR_PRODUCTS(inputs)
            product(v + spot(k, r, 0, inputs, spots, 1) + r % LANES, 1, LANES, 0, (count + PAIR - 1) / PAIR, 1,
                    m + spot(k, c, 0, outputs, spots, 1), (long)spots / PAIR * LANES,
                    u + ((long)k * outputs + c) * inputs + r * LANES, (long)inputs * LANES, begin > 0);
    }
    FOR_KERNELS {
        V in[6][6], out[6][6];
        for (int k = 0; k < 36; k++) in[k / 6][k % 6] = loadf(u + ((long)k * outputs + c) * inputs + t * LANES);
        BOTH_WAYS(from_kernel, 6, 3, in, out);
        for (int i = 0; i < 3; i++) for (int j = 0; j < 3; j++)
            for (int l = 0; l < LANES; l++) TAP(l, i, j) = out[i][j][l];
    }
    }
    free(u); free(v); free(m);
}

#define FOR_CHANNELS \
    _Pragma("omp parallel for num_threads(threads)") \
    for (int n = 0; n < images; n++) \
    for (V *map = aligned_alloc(sizeof(V), sizeof(V) * side * side), *all = map; all; free(all), all = NULL) \
    for (int c = 0; c < channels; c += LANES)
#define FOR_PIXELS for (int y = 0, at = 0; y < side; y++) for (int z = 0; z < side; z++, at++)
#define POOLED ((((long)n * (side / pool) + y / pool) * (side / pool) + z / pool) * channels + c)
#define NEAR(k) bordered[(((long)n * (side + 2) + y + (k) / 9) * (side + 2) + z) * 3 + (k) % 9]

// Return in map the pixels of 16 channels of an image; of the convolution of images (N, S + 2, S + 2, 3), border and all,
// by a kernel (27, K), if there is one.
static inline void get(V *map, const void *x, const float *kernel, int n, int c, int side, int channels) {
    const float *bordered = x;
    V near[27];
    if (!kernel) { FOR_PIXELS map[at] = load((const T *)x + PIXEL(y, z)); return; }
    EACH(int k = 0; k < 27; k++) near[k] = loadf(kernel + k * channels + c);
    FOR_PIXELS {
        V sum[3] = {0};  // a chain of additions for each row
        EACH(int k = 0; k < 27; k++) sum[k / 9] += near[k] * NEAR(k);
        map[at] = sum[0] + sum[1] + sum[2];
    }
}
void norm(T *out, const void *x, const float *kernel, const float *weight, const float *bias, float *stats, int images,
          int side, int channels, float epsilon, int relu, int pool, int threads) {
    // stats (N, 2, C): mean and 1/deviation
    float share = 1.0f / (side * side), part = 1.0f / (pool * pool);
    FOR_CHANNELS {
        V mean = {0}, square = {0}, rate;
        get(map, x, kernel, n, c, side, channels);
        FOR_PIXELS mean += map[at];
        mean *= share;
        FOR_PIXELS { V d = map[at] - mean; square += d * d; }
        for (int k = 0; k < LANES; k++) rate[k] = 1 / sqrtf(square[k] * share + epsilon);
        storef(stats + (2L * n) * channels + c, mean);
        storef(stats + (2L * n + 1) * channels + c, rate);
        V slope = rate * loadf(weight + c), shift = loadf(bias + c) - mean * slope;
        for (int y = 0; y < side; y += pool) for (int z = 0; z < side; z += pool) {
            V sum = {0};
            for (int i = 0; i < pool; i++) for (int j = 0; j < pool; j++) {
                V t = map[(y + i) * side + z + j] * slope + shift;
                sum += relu ? (V)((I)t & (t > 0)) : t;
            }
            store(out + POOLED, sum * part);
        }
    }
}
void norm_backward(const T *g, const void *x, const float *kernel, const float *weight, const float *bias,
                   const float *stats, void *dx, float *sums, int images, int side, int channels, int relu, int pool,
                   int threads) {
    // sums (N, 2, C): of each image the gradients of bias and weight; dx that of x, or (N, 27, C) of the kernel
    float share = 1.0f / (side * side), part = 1.0f / (pool * pool);
    FOR_CHANNELS {
        V mean = loadf(stats + (2L * n) * channels + c), rate = loadf(stats + (2L * n + 1) * channels + c);
        V w = loadf(weight + c), b = loadf(bias + c), first = {0}, second = {0};
        get(map, x, kernel, n, c, side, channels);
        FOR_PIXELS {
            V h = map[at] = (map[at] - mean) * rate, d = load(g + POOLED) * part;
            if (relu) d = (V)((I)d & (h * w + b > 0));
            first += d; second += d * h;
        }
        storef(sums + (2L * n) * channels + c, first);
        storef(sums + (2L * n + 1) * channels + c, second);
        FOR_PIXELS {
            V h = map[at], d = load(g + POOLED) * part;
            if (relu) d = (V)((I)d & (h * w + b > 0));
            map[at] = w * rate * (d - share * (first + h * second));
            if (!kernel) store((T *)dx + PIXEL(y, z), map[at]);
        }
        if (kernel) {
            const float *bordered = x;
            V sum[27] = {0};
            FOR_PIXELS EACH(int k = 0; k < 27; k++) sum[k] += map[at] * NEAR(k);
            EACH(int k = 0; k < 27; k++) storef((float *)dx + (27L * n + k) * channels + c, sum[k]);
        }
    }
}

// Convolutions of 3 × 3 by Winograd's F(4 × 4, 3 × 3) (Lavin and Gray, arXiv:1509.09308), and instance norm with ReLU
// and average pool, of images (N, S, S, C). Functions work on a vector of channels at a time, in parallel over images,
// tiles, numbers of a tile or channels. Sides are multiples of 4 and channels of 32, as `fused.py` sees to. Arithmetic is fp32, storage T: fp32, or bf16 with -DBF16. `fused.py` compiles and calls it.
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#define SPOTS 72  // tiles at a time: more leave the caches, fewer load each tile of a kernel more often
#define ROWS (LANES / 2)  // of a product that stay in registers, two vectors each
#if defined BF16 && defined __AVX512BF16__ && (defined __znver3__ || defined __znver4__ || defined __znver5__)
#define PAIRS  // products of pairs of bf16 are faster than those of fp32; an Intel Xeon of 2023 is half as fast at them
#endif
#define EACH(steps) _Pragma("GCC unroll 32") for (steps)  // in registers
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

// Tiles are words of 32 bits: a number, or a pair of bf16, of two channels or of two tiles.
#ifdef PAIRS
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
    v[0] = g[0] / 4; v[1] = (s + g[1]) / -6; v[2] = (g[1] - s) / 6;
    v[3] = p + g[1] / 12; v[4] = p - g[1] / 12; v[5] = g[2];
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
    for (int at = begin + t, row = side / 4, n = at / (row * row), a = at / row % row, b = at % row, c = 0; \
         c < channels; c += LANES)

// Return where in tiles (36, C / LANES, spots, words) one is.
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
// A product of ROWS rows of a by two vectors of columns of b, whose distance is far, as is that of the two of out.
static inline __attribute__((always_inline)) void product(
    const float *a, long row, long step, long block, int inner, int outer, const float *b, long far, float *out,
    long out_far, int add) {
    V sum[ROWS][2];
    EACH(int r = 0; r < ROWS; r++) EACH(int j = 0; j < 2; j++) {
        float *at = out + r * LANES + j * out_far;
        sum[r][j] = add ? loadf(at) : (V){0};
        __builtin_prefetch(at + ROWS * LANES, 1);  // of the product that follows
    }
    for (int o = 0; o < outer; o++) for (int i = 0; i < inner; i++, b += LANES) {
        V left = loadf(b), right = loadf(b + far);
        EACH(int r = 0; r < ROWS; r++) {
            int32_t word;
            memcpy(&word, a + o * block + i * step + r * row, 4);
            V all = (V)(word | (I){0});
            sum[r][0] = dot(sum[r][0], all, left);
            sum[r][1] = dot(sum[r][1], all, right);
        }
    }
    EACH(int r = 0; r < ROWS; r++) EACH(int j = 0; j < 2; j++) storef(out + r * LANES + j * out_far, sum[r][j]);
}

#define FOR_KERNELS \
    _Pragma("omp for") \
    for (int c = 0; c < outputs; c += LANES) for (int t = 0; t < inputs; t++)
#define FOR_KERNEL for (int i = 0; i < 3; i++) for (int j = 0; j < 3; j++) for (int l = 0; l < LANES; l++)
#define AT(l, i, j) kernel[mirrored ? (t * outputs + c + (l)) * 9 + 8 - 3 * (i) - (j) \
                                    : ((c + (l)) * inputs + t) * 9 + 3 * (i) + (j)]
#define FOR_PRODUCTS(rows) \
    _Pragma("omp for") \
    for (int k = 0; k < 36; k++) for (int c = 0; c < outputs; c += 2 * LANES) for (int r = 0; r < (rows); r += ROWS)
#define ALL (images * (side / 4) * (side / 4))
#define WORDS(numbers) malloc(36L * (numbers) * sizeof(float))

// Convolve by a kernel (K, C, 3, 3), or by the adjoint of a kernel (C, K, 3, 3).
void winograd(const T *x, const float *kernel, T *out_images, int images, int side, int inputs, int outputs,
              int mirrored, int threads) {
    int spots = ALL < SPOTS ? (ALL + ROWS - 1) / ROWS * ROWS : SPOTS, channels = outputs;
    float *v = WORDS(spots * inputs), *m = WORDS(spots * outputs), *u = WORDS(inputs * outputs);
    _Pragma("omp parallel num_threads(threads)") {
        FOR_KERNELS {
            V in[6][6], out[6][6];
            FOR_KERNEL in[i][j][l] = AT(l, i, j);
            BOTH_WAYS(to_kernel, 3, 6, in, out);
            for (int k = 0; k < 36; k++) store_word(u + spot(k, c, t, outputs, inputs, 1), out[k / 6][k % 6], t & 1, 1);
        }
        for (int begin = 0; begin < ALL; begin += spots) {
            int count = ALL - begin < spots ? ALL - begin : spots;
            input_tiles(x, v, begin, count, spots, side, inputs, 0);
            FOR_PRODUCTS(count)
                product(v + spot(k, 0, r, inputs, spots, 0), LANES / PAIR, 1, (long)spots * LANES / PAIR, LANES / PAIR,
                        inputs / LANES, u + spot(k, c, 0, outputs, inputs, 1), (long)inputs / PAIR * LANES,
                        m + ((long)k * outputs + c) * spots + r * LANES, (long)spots * LANES, 0);
            FOR_TILES(count) {
                V in[6][6], out[6][6];
                for (int k = 0; k < 36; k++) in[k / 6][k % 6] = loadf(m + ((long)k * outputs + c) * spots + t * LANES);
                BOTH_WAYS(to_output, 6, 4, in, out);
                for (int k = 0; k < 16; k++)
                    store(out_images + PIXEL(4 * a + k / 4, 4 * b + k % 4), out[k / 4][k % 4]);
            }
        }
    }
    free(u); free(v); free(m);
}
// Return the gradient of a kernel (K, C, 3, 3).
void winograd_kernel(const T *x, const T *gradient, float *kernel, int images, int side, int inputs, int outputs,
                     int threads) {
    int spots = ALL < SPOTS ? (ALL + ROWS - 1) / ROWS * ROWS : SPOTS, channels = outputs, mirrored = 0;
    float *v = WORDS(spots * inputs), *m = WORDS(spots * outputs), *u = WORDS(inputs * outputs);
    _Pragma("omp parallel num_threads(threads)") {
        for (int begin = 0; begin < ALL; begin += spots) {
            int count = ALL - begin < spots ? ALL - begin : spots;
            input_tiles(x, v, begin, count, spots, side, inputs, 1);
            FOR_TILES(count) {  // adjoint of those of the output
                V in[6][6], out[6][6];
                for (int k = 0; k < 16; k++) in[k / 4][k % 4] = load(gradient + PIXEL(4 * a + k / 4, 4 * b + k % 4));
                BOTH_WAYS(to_gradient, 4, 6, in, out);
                for (int k = 0; k < 36; k++)
                    store_word(m + spot(k, c, t, outputs, spots, 1), out[k / 6][k % 6], t & 1, 1);
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
            FOR_KERNEL AT(l, i, j) = out[i][j][l];
        }
    }
    free(u); free(v); free(m);
}

#define FOR_IMAGES _Pragma("omp parallel for num_threads(threads)") for (int n = 0; n < images; n++)
#define FOR_CHANNELS for (int c = 0; c < channels; c += LANES)
#define FOR_PIXELS for (int y = 0, at = 0; y < side; y++) for (int z = 0; z < side; z++, at++)
#define FOR_POOLED for (int y = 0; y < side; y += pool) for (int z = 0; z < side; z += pool)
#define POOLED ((((long)n * (side / pool) + y / pool) * (side / pool) + z / pool) * channels + c)
#define MEAN (stats + 2L * n * channels + c)  // stats (N, 2, C): mean and 1/deviation of each image
#define RATE (stats + (2L * n + 1) * channels + c)
#define FIRST (sums + 2L * n * channels + c)  // sums (N, 2, C): of each image the gradients of bias and weight
#define SECOND (sums + (2L * n + 1) * channels + c)
#define SHARE (1.0f / (side * side))

// What is not a number stays so, as in PyTorch: a training that diverges shows it.
static inline V rectified(V x, V by, int relu) { return relu ? (V)((I)x & ~(by <= 0)) : x; }
static inline void set_rate(float *rate, V square, float share, float epsilon) {
    for (int k = 0; k < LANES; k++) rate[k] = 1 / sqrtf(square[k] * share + epsilon);
}

void norm(T *out, const T *x, const float *weight, const float *bias, float *stats, int images, int side, int channels,
          float epsilon, int relu, int pool, int threads) {
    FOR_IMAGES {
        memset(stats + 2L * n * channels, 0, 8L * channels);
        FOR_PIXELS FOR_CHANNELS storef(MEAN, loadf(MEAN) + load(x + PIXEL(y, z)));
        FOR_CHANNELS storef(MEAN, loadf(MEAN) * SHARE);
        FOR_PIXELS FOR_CHANNELS { V d = load(x + PIXEL(y, z)) - loadf(MEAN); storef(RATE, loadf(RATE) + d * d); }
        FOR_CHANNELS set_rate(RATE, loadf(RATE), SHARE, epsilon);
        FOR_POOLED FOR_CHANNELS {
            V slope = loadf(RATE) * loadf(weight + c), shift = loadf(bias + c) - loadf(MEAN) * slope, sum = {0};
            for (int i = 0; i < pool; i++) for (int j = 0; j < pool; j++) {
                V t = load(x + PIXEL(y + i, z + j)) * slope + shift;
                sum += rectified(t, t, relu);
            }
            store(out + POOLED, sum * (1.0f / (pool * pool)));
        }
    }
}
void norm_backward(const T *g, const T *x, const float *weight, const float *bias, const float *stats, T *dx,
                   float *sums, int images, int side, int channels, int relu, int pool, int threads) {
    FOR_IMAGES {
        memset(sums + 2L * n * channels, 0, 8L * channels);
        for (int last = 0; last < 2; last++) FOR_PIXELS FOR_CHANNELS {
            V w = loadf(weight + c), rate = loadf(RATE), h = (load(x + PIXEL(y, z)) - loadf(MEAN)) * rate;
            V d = rectified(load(g + POOLED) * (1.0f / (pool * pool)), h * w + loadf(bias + c), relu);
            if (last) store(dx + PIXEL(y, z), w * rate * (d - SHARE * (loadf(FIRST) + h * loadf(SECOND))));
            else { storef(FIRST, loadf(FIRST) + d); storef(SECOND, loadf(SECOND) + d * h); }
        }
    }
}

// The same after the convolution of images x (N, S + 2, S + 2, 3), border and all, by a kernel (27, K), which is
// computed anew for the gradients, a vector of channels at a time.
#define NEAR(k) x[(((long)n * (side + 2) + y + (k) / 9) * (side + 2) + z) * 3 + (k) % 9]
static inline void convolve(V *map, const float *x, const float *kernel, int n, int c, int side, int channels) {
    V near[27];
    EACH(int k = 0; k < 27; k++) near[k] = loadf(kernel + k * channels + c);
    FOR_PIXELS {
        V sum[3] = {0};  // a chain of additions for each row
        EACH(int k = 0; k < 27; k++) sum[k / 9] += near[k] * NEAR(k);
        map[at] = sum[0] + sum[1] + sum[2];
    }
}
void first(T *out, const float *x, const float *kernel, const float *weight, const float *bias, float *stats,
           int images, int side, int channels, float epsilon, int relu, int pool, int threads) {
    FOR_IMAGES {
        V *map = aligned_alloc(sizeof(V), sizeof(V) * side * side);
        FOR_CHANNELS {
            V mean = {0}, square = {0};
            convolve(map, x, kernel, n, c, side, channels);
            FOR_PIXELS mean += map[at];
            mean *= SHARE;
            FOR_PIXELS { V d = map[at] - mean; square += d * d; }
            storef(MEAN, mean);
            set_rate(RATE, square, SHARE, epsilon);
            V slope = loadf(RATE) * loadf(weight + c), shift = loadf(bias + c) - mean * slope;
            FOR_POOLED {
                V sum = {0};
                for (int i = 0; i < pool; i++) for (int j = 0; j < pool; j++) {
                    V t = map[(y + i) * side + z + j] * slope + shift;
                    sum += rectified(t, t, relu);
                }
                store(out + POOLED, sum * (1.0f / (pool * pool)));
            }
        }
        free(map);
    }
}
void first_backward(const T *g, const float *x, const float *kernel, const float *weight, const float *bias,
                    const float *stats, float *of_kernel, float *sums, int images, int side, int channels, int relu,
                    int pool, int threads) {  // of_kernel (N, 27, K): of each image
    FOR_IMAGES {
        V *map = aligned_alloc(sizeof(V), sizeof(V) * side * side);
        FOR_CHANNELS {
            V mean = loadf(MEAN), rate = loadf(RATE), w = loadf(weight + c), b = loadf(bias + c);
            V first = {0}, second = {0};
            convolve(map, x, kernel, n, c, side, channels);
            for (int last = 0; last < 2; last++) FOR_PIXELS {
                V h = last ? map[at] : (map[at] - mean) * rate;
                V d = rectified(load(g + POOLED) * (1.0f / (pool * pool)), h * w + b, relu);
                map[at] = last ? w * rate * (d - SHARE * (first + h * second)) : h;
                if (!last) { first += d; second += d * h; }
            }
            storef(FIRST, first);
            storef(SECOND, second);
            V sum[27] = {0};
            FOR_PIXELS EACH(int k = 0; k < 27; k++) sum[k] += map[at] * NEAR(k);
            EACH(int k = 0; k < 27; k++) storef(of_kernel + (27L * n + k) * channels + c, sum[k]);
        }
        free(map);
    }
}

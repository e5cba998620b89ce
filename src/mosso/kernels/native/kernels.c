/* The operations of gpt-oss on a CPU in float32 arithmetic: the fast versions of the torch twins one folder up,
 * which say what each computes. Arrays are dense unless a stride is given; lengths and strides count elements.
 * A function that can run out of memory returns 1 then, and 0 otherwise. */
#include <math.h>
#include <stdlib.h>

#include "matrix.h"
#include "threads.h"

enum { ROW_TASK = 16, PAIRS = 256, THREAD_WORK = 1 << 18 };

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t blocks_of(int64_t count, int64_t size) { return (count + size - 1) / size; }

/* No more threads than have some 20 us of multiply-adds each: below that, meeting costs more than it saves, and
 * on a busy machine every meeting may wait for a thread that was put aside. */
INLINE int worth(int threads, int64_t multiplies) {
    return (int)least(threads, 1 + multiplies / THREAD_WORK);
}

/* ---- rms_norm: x [T, H], weight [H] -------------------------------------------------------------------- */

typedef struct {
    const float *x, *weight;
    float *out;
    int64_t rows, columns;
    float eps;
} Norm;

static void norm_row(const float *x, const float *weight, float *out, int64_t columns, float eps) {
    f32x16 squares = {0};
    float tail = 0;
    int64_t k = 0;
    for (; k + 16 <= columns; k += 16) squares = fma16(load_f32(x + k), load_f32(x + k), squares);
    for (; k < columns; k++) tail += x[k] * x[k];
    const float inverse = 1.0f / sqrtf((sum16(squares) + tail) / (float)columns + eps);
    for (k = 0; k < columns; k++) out[k] = x[k] * inverse * weight[k];
}

static void norm_task(void *arg, int64_t index) {
    const Norm *job = arg;
    for (int64_t r = index * ROW_TASK; r < least(job->rows, (index + 1) * ROW_TASK); r++)
        norm_row(job->x + r * job->columns, job->weight, job->out + r * job->columns, job->columns, job->eps);
}

void mosso_rms_norm(int threads, const float *x, const float *weight, int64_t rows, int64_t columns, float eps,
                    float *out) {
    Norm job = {x, weight, out, rows, columns, eps};
    parallel(worth(threads, rows * columns), norm_task, &job, blocks_of(rows, ROW_TASK));
}

/* ---- linear: x [T, K] . w [N, K] + bias [N] ------------------------------------------------------------ */

typedef struct {
    Matrix weight;
    int64_t rows, outputs;
    const float *const *x;
    const float *bias; /* or NULL */
    float *out;
} Linear;

static void linear_task(void *arg, int64_t index) {
    const Linear *job = arg;
    const int64_t first = index * BLOCK, count = least(BLOCK, job->outputs - first);
    const Matrix block = matrix_rows(&job->weight, first);
    multiply(&block, count, job->x, job->rows, job->out + first, job->outputs);
    if (!job->bias) return;
    for (int64_t r = 0; r < job->rows; r++)
        for (int64_t c = first; c < first + count; c++) job->out[r * job->outputs + c] += job->bias[c];
}

int mosso_linear(int threads, const float *x, int64_t rows, int64_t columns, int type, const void *weight,
                 int64_t outputs, const float *bias, float *out) {
    const float **pointers = malloc((size_t)(rows + 1) * sizeof *pointers);
    if (!pointers) return 1;
    for (int64_t r = 0; r < rows; r++) pointers[r] = x + r * columns;
    Linear job = {{type, columns, weight, NULL}, rows, outputs, pointers, bias, out};
    parallel(worth(threads, rows * columns * outputs), linear_task, &job, rows ? blocks_of(outputs, BLOCK) : 0);
    free(pointers);
    return 0;
}

/* ---- rotate_and_store: qkv [T, H + 2 KV, D] -> q [T, H, D], and keys and values into the pool ------------ */

typedef struct {
    const float *qkv, *cos, *sin;
    const int64_t *slots;
    float *q;
    void *pool; /* [2, KV, positions, D] */
    int64_t rows, heads, kv_heads, dim, positions;
    int pool_type;
} Rotate;

static void store_head(const Rotate *job, int64_t plane, int64_t slot, const float *values) {
    const int64_t at = (plane * job->positions + slot) * job->dim;
    if (job->pool_type == F32) {
        memcpy((float *)job->pool + at, values, (size_t)job->dim * sizeof(float));
    } else {
        for (int64_t i = 0; i < job->dim; i++) ((uint16_t *)job->pool)[at + i] = to_bf16(values[i]);
    }
}

INLINE void rotate_head(const float *head, const float *cos, const float *sin, int64_t half, float *out) {
    for (int64_t i = 0; i < half; i++) {
        const float first = head[i], second = head[half + i];
        out[i] = first * cos[i] - second * sin[i];
        out[half + i] = second * cos[i] + first * sin[i];
    }
}

static void rotate_row(const Rotate *job, int64_t row, float *key) {
    const int64_t dim = job->dim, half = dim / 2, all = job->heads + 2 * job->kv_heads;
    const float *heads = job->qkv + row * all * dim, *cos = job->cos + row * half, *sin = job->sin + row * half;
    for (int64_t h = 0; h < job->heads; h++)
        rotate_head(heads + h * dim, cos, sin, half, job->q + (row * job->heads + h) * dim);
    for (int64_t g = 0; g < job->kv_heads; g++) {
        rotate_head(heads + (job->heads + g) * dim, cos, sin, half, key);
        store_head(job, g, job->slots[row], key);
        store_head(job, job->kv_heads + g, job->slots[row], heads + (job->heads + job->kv_heads + g) * dim);
    }
}

static void rotate_task(void *arg, int64_t index) {
    const Rotate *job = arg;
    float key[512]; /* the caller has checked that dim is no more */
    for (int64_t r = index * ROW_TASK; r < least(job->rows, (index + 1) * ROW_TASK); r++) rotate_row(job, r, key);
}

void mosso_rotate_and_store(int threads, const float *qkv, const float *cos, const float *sin,
                            const int64_t *slots, int64_t rows, int64_t heads, int64_t kv_heads, int64_t dim,
                            float *q, int pool_type, void *pool, int64_t positions) {
    Rotate job = {qkv, cos, sin, slots, q, pool, rows, heads, kv_heads, dim, positions, pool_type};
    parallel(worth(threads, rows * (heads + kv_heads) * dim), rotate_task, &job, blocks_of(rows, ROW_TASK));
}

/* ---- paged_attention: q [T, H, D] over pool [2, KV, pages, page_size, D] -> out [T, H, D] ---------------- */

typedef struct {
    const float *q, *sinks;
    const char *pool;
    const int32_t *pages, *starts, *contexts;
    float *out;
    int64_t rows, table_stride, heads, kv_heads, dim, pool_pages, page_size, window; /* window 0: none */
    int pool_type;
    atomic_int failed;
} Attention;

INLINE f32x16 load_any(const int type, const char *values, int64_t index) {
    return type == F32 ? load_f32((const float *)values + index) : load_bf16((const uint16_t *)values + index);
}

/* Where the vectors of positions lo .. lo + n - 1 are, for one of the pool's 2 KV planes. */
static void find_positions(const Attention *job, const int32_t *table, int64_t plane, int64_t lo, int64_t n,
                           const char **found) {
    const int64_t bytes = row_bytes(job->pool_type, job->dim);
    int64_t logical = lo / job->page_size, offset = lo % job->page_size;
    for (int64_t p = 0; p < n; logical++, offset = 0) {
        const int64_t page = plane * job->pool_pages + table[logical];
        const char *at = job->pool + page * job->page_size * bytes;
        for (; offset < job->page_size && p < n; offset++) found[p++] = at + offset * bytes;
    }
}

/* scores[h][p] of n keys; places n .. padded - 1 become -inf. */
INLINE void score_keys(const int type, const float *q, int64_t group, int64_t dim, const char *const *keys,
                       int64_t n, int64_t padded, float *scores) {
    const float scale = 1.0f / sqrtf((float)dim);
    for (int64_t p = 0; p < n; p++) {
        for (int64_t h = 0; h < group; h++) {
            f32x16 sum = {0};
            for (int64_t d = 0; d < dim; d += 16)
                sum = fma16(load_f32(q + h * dim + d), load_any(type, keys[p], d), sum);
            scores[h * padded + p] = sum16(sum) * scale;
        }
    }
    for (int64_t h = 0; h < group; h++)
        for (int64_t p = n; p < padded; p++) scores[h * padded + p] = -INFINITY;
}

/* scores -> exp(score - maximum); returns one over their sum with the sink's. */
static float soften(float *scores, int64_t padded, float sink) {
    f32x16 highest = splat(sink), total = {0};
    for (int64_t p = 0; p < padded; p += 16) highest = max16(highest, load_f32(scores + p));
    const float maximum = maximum16(highest);
    for (int64_t p = 0; p < padded; p += 16) {
        const f32x16 shares = exp16(load_f32(scores + p) - splat(maximum));
        store_f32(scores + p, shares);
        total += shares;
    }
    return 1.0f / (sum16(total) + exp16(splat(sink - maximum))[0]);
}

/* out[d] = sum of scores[p] * values[p][d], times inverse, for `lanes` vectors of d from `first` on. */
INLINE void mix_lanes(const int type, const int lanes, const float *scores, const char *const *values, int64_t n,
                      int64_t first, float inverse, float *out) {
    f32x16 sums[4] = {0};
    for (int64_t p = 0; p < n; p++)
#pragma GCC unroll 4
        for (int i = 0; i < lanes; i++) sums[i] = fma16(splat(scores[p]), load_any(type, values[p], first + 16 * i), sums[i]);
#pragma GCC unroll 4
    for (int i = 0; i < lanes; i++) store_f32(out + first + 16 * i, sums[i] * inverse);
}

INLINE void mix_values(const int type, const float *scores, int64_t dim, const char *const *values, int64_t n,
                       float inverse, float *out) {
    int64_t d = 0;
    for (; d + 64 <= dim; d += 64) mix_lanes(type, 4, scores, values, n, d, inverse, out);
    for (; d < dim; d += 16) mix_lanes(type, 1, scores, values, n, d, inverse, out);
}

INLINE void attend(const int type, const Attention *job, int64_t at, const float *sinks, const char *const *keys,
                   const char *const *values, int64_t n, int64_t padded, float *scores) {
    const int64_t group = job->heads / job->kv_heads, dim = job->dim;
    score_keys(type, job->q + at, group, dim, keys, n, padded, scores);
    for (int64_t h = 0; h < group; h++) {
        const float inverse = soften(scores + h * padded, padded, sinks[h]);
        mix_values(type, scores + h * padded, dim, values, n, inverse, job->out + at + h * dim);
    }
}

static int64_t row_of_token(const Attention *job, int64_t token) { /* the last row that starts at or before it */
    int64_t low = 0, high = job->rows - 1;
    while (low < high) {
        const int64_t middle = (low + high + 1) / 2;
        if (job->starts[middle] <= token) low = middle;
        else high = middle - 1;
    }
    return low;
}

static void attention_task(void *arg, int64_t index) {
    Attention *job = arg;
    const int64_t group = job->heads / job->kv_heads;
    const int64_t token = index / job->kv_heads, kv_head = index % job->kv_heads;
    const int64_t row = row_of_token(job, token);
    const int64_t position = job->contexts[row] - (job->starts[row + 1] - token);
    const int64_t lo = job->window && position >= job->window ? position - job->window + 1 : 0;
    const int64_t n = position - lo + 1, padded = blocks_of(n, 16) * 16;
    const int64_t at = (token * job->heads + kv_head * group) * job->dim;
    const int32_t *table = job->pages + row * job->table_stride;
    const float *sinks = job->sinks + kv_head * group;
    char *memory = malloc((size_t)(group * padded) * sizeof(float) + (size_t)(2 * n) * sizeof(char *));
    if (!memory) {
        atomic_store(&job->failed, 1);
        return;
    }
    const char **keys = (const char **)memory, **values = keys + n;
    float *scores = (float *)(values + n);
    find_positions(job, table, kv_head, lo, n, keys);
    find_positions(job, table, job->kv_heads + kv_head, lo, n, values);
    if (job->pool_type == F32) attend(F32, job, at, sinks, keys, values, n, padded, scores);
    else attend(BF16, job, at, sinks, keys, values, n, padded, scores);
    free(memory);
}

int mosso_paged_attention(int threads, const float *q, int64_t tokens, int64_t heads, int64_t kv_heads,
                          int64_t dim, int pool_type, const void *pool, int64_t pool_pages, int64_t page_size,
                           const int32_t *pages, int64_t table_stride, const int32_t *starts,
                           const int32_t *contexts, int64_t rows, const float *sinks, int64_t window,
                           float *out) {
    Attention job = {q, sinks, pool, pages, starts, contexts, out, rows, table_stride, heads, kv_heads, dim,
                     pool_pages, page_size, window, pool_type, 0};
    int64_t seen = 0;
    for (int64_t row = 0; row < rows; row++) seen += contexts[row] * (int64_t)(starts[row + 1] - starts[row]);
    parallel(worth(threads, 4 * seen * heads * dim), attention_task, &job, tokens * kv_heads);
    return atomic_load(&job.failed);
}

/* ---- mix: the chosen experts of each token --------------------------------------------------------------- */

typedef struct {
    int type; /* of both weights */
    int64_t count, hidden, inner;
    const char *gate_up, *down;
    const uint8_t *gate_up_scales, *down_scales; /* of MXFP4, else NULL */
    const float *gate_up_bias, *down_bias;
} Experts;

typedef struct {
    const Experts *experts;
    const int64_t *chosen; /* [T, k] */
    const float *shares;   /* [T, k] */
    int64_t tokens, top_k, gate_up_blocks, down_blocks;
    float limit;
    /* Pairs are (token, choice), sorted by expert and then by token. */
    int64_t *active;      /* the experts that any token chose, ascending */
    int64_t *first;       /* [active + 1] where an active expert's pairs begin */
    int64_t *pair_of;     /* [T, k] a token's pairs, by ascending expert */
    int64_t *pair_choice; /* [pairs] index into chosen and shares */
    const float **inputs; /* [pairs] the token's row, in the weights' element order */
    const float **inners; /* [pairs] rows of inner */
    float *inner;         /* [pairs, I] after SwiGLU, in the weights' element order */
    float *results;       /* [pairs, H] */
    float *out;           /* [T, H] */
} Mix;

static Matrix expert_rows(const Experts *e, int is_down, int64_t expert, int64_t first) {
    const int64_t columns = is_down ? e->inner : e->hidden, rows = is_down ? e->hidden : 2 * e->inner;
    const Matrix all = {e->type, columns, is_down ? e->down : e->gate_up,
                        is_down ? e->down_scales : e->gate_up_scales};
    return matrix_rows(&all, expert * rows + first);
}

static void swiglu_row(const float *gate_up, const float *bias, int64_t count, float limit, int type, float *out,
                       int64_t at) {
    float gate[16] = {0}, up[16] = {0}, result[16];
    for (int64_t i = 0; i < count; i++) {
        gate[i] = gate_up[2 * i] + bias[2 * i];
        up[i] = gate_up[2 * i + 1] + bias[2 * i + 1];
    }
    /* Below -50 the product is nothing, and exp16 would saturate. */
    const f32x16 g = max16(min16(load_f32(gate), splat(limit)), splat(-50.0f));
    const f32x16 u = max16(min16(load_f32(up), splat(limit)), splat(-limit));
    store_f32(result, g / (1.0f + exp16(-1.702f * g)) * (u + 1.0f));
    for (int64_t i = 0; i < count; i++) out[stored_index(type, at + i)] = result[i];
}

static void gate_up_task(void *arg, int64_t index) {
    const Mix *job = arg;
    const Experts *e = job->experts;
    const int64_t slot = index / job->gate_up_blocks, first = index % job->gate_up_blocks * BLOCK;
    const int64_t count = least(BLOCK, 2 * e->inner - first), expert = job->active[slot];
    const Matrix rows = expert_rows(e, 0, expert, first);
    const float *bias = e->gate_up_bias + expert * 2 * e->inner + first;
    const int64_t begin = job->first[slot], end = job->first[slot + 1];
    float products[PAIRS * BLOCK] __attribute__((aligned(64)));
    for (int64_t p = begin; p < end; p += PAIRS) {
        const int64_t some = least(PAIRS, end - p);
        multiply(&rows, count, job->inputs + p, some, products, BLOCK);
        for (int64_t i = 0; i < some; i++)
            swiglu_row(products + i * BLOCK, bias, count / 2, job->limit, e->type, job->inner + (p + i) * e->inner,
                       first / 2);
    }
}

static void down_task(void *arg, int64_t index) {
    const Mix *job = arg;
    const Experts *e = job->experts;
    const int64_t slot = index / job->down_blocks, first = index % job->down_blocks * BLOCK;
    const int64_t count = least(BLOCK, e->hidden - first), expert = job->active[slot];
    const Matrix rows = expert_rows(e, 1, expert, first);
    const int64_t begin = job->first[slot], pairs = job->first[slot + 1] - begin;
    multiply(&rows, count, job->inners + begin, pairs, job->results + begin * e->hidden + first, e->hidden);
}

static void combine_task(void *arg, int64_t token) {
    const Mix *job = arg;
    const int64_t hidden = job->experts->hidden;
    float *out = job->out + token * hidden;
    memset(out, 0, (size_t)hidden * sizeof *out);
    for (int64_t i = 0; i < job->top_k; i++) {
        const int64_t pair = job->pair_of[token * job->top_k + i], choice = job->pair_choice[pair];
        const float *bias = job->experts->down_bias + job->chosen[choice] * hidden;
        const float *result = job->results + pair * hidden, share = job->shares[choice];
        for (int64_t c = 0; c < hidden; c++) out[c] += share * (result[c] + bias[c]);
    }
}

/* Fills the sorted lists of job; returns how many experts are active. counts [E + 1] and found [T] are zero. */
static int64_t sort_pairs(Mix *job, int64_t *counts, int64_t *found, const float *x) {
    const int64_t pairs = job->tokens * job->top_k, hidden = job->experts->hidden;
    int64_t active = 0;
    for (int64_t i = 0; i < pairs; i++) counts[job->chosen[i] + 1]++;
    for (int64_t e = 0; e < job->experts->count; e++) {
        if (counts[e + 1]) {
            job->active[active] = e;
            job->first[active++] = counts[e];
        }
        counts[e + 1] += counts[e];
    }
    job->first[active] = pairs;
    for (int64_t i = 0; i < pairs; i++) {
        const int64_t pair = counts[job->chosen[i]]++;
        job->pair_choice[pair] = i;
        job->inputs[pair] = x + i / job->top_k * hidden;
        job->inners[pair] = job->inner + pair * job->experts->inner;
    }
    for (int64_t pair = 0; pair < pairs; pair++) {
        const int64_t token = job->pair_choice[pair] / job->top_k;
        job->pair_of[token * job->top_k + found[token]++] = pair;
    }
    return active;
}

static void run_mix(int threads, Mix *job, int64_t active) {
    job->gate_up_blocks = blocks_of(2 * job->experts->inner, BLOCK);
    job->down_blocks = blocks_of(job->experts->hidden, BLOCK);
    const int64_t results = job->tokens * job->top_k * job->experts->hidden, inner = job->experts->inner;
    parallel(worth(threads, 2 * inner * results), gate_up_task, job, active * job->gate_up_blocks);
    parallel(worth(threads, inner * results), down_task, job, active * job->down_blocks);
    parallel(worth(threads, results), combine_task, job, job->tokens);
}

int mosso_mix(int threads, const float *x, int64_t tokens, const int64_t *chosen, const float *shares,
              int64_t top_k, int type, int64_t count, int64_t hidden, int64_t inner, const void *gate_up,
              const uint8_t *gate_up_scales, const float *gate_up_bias, const void *down,
              const uint8_t *down_scales, const float *down_bias, float limit, float *out) {
    const Experts experts = {type, count, hidden, inner, gate_up, down, gate_up_scales, down_scales,
                             gate_up_bias, down_bias};
    const int64_t pairs = tokens * top_k;
    const size_t words = (size_t)(3 * count + 3 + 4 * pairs + tokens);
    int64_t *indices = calloc(words, sizeof *indices);
    float *floats = allocate_floats(tokens * hidden + pairs * (inner + hidden));
    const int failed = !indices || !floats;
    if (!failed) {
        int64_t *next = indices;
        Mix job = {&experts, chosen, shares, tokens, top_k, .limit = limit, .out = out};
        int64_t *counts = next, *found = (next += count + 1);
        job.active = (next += tokens);
        job.first = (next += count);
        job.pair_of = (next += count + 1);
        job.pair_choice = (next += pairs);
        job.inputs = (const float **)(next += pairs);
        job.inners = (const float **)(next += pairs);
        job.inner = floats + tokens * hidden;
        job.results = job.inner + pairs * inner;
        if (type == MXFP4) {
            for (int64_t t = 0; t < tokens; t++)
                for (int64_t k = 0; k < hidden; k++) floats[t * hidden + stored_index(type, k)] = x[t * hidden + k];
            x = floats;
        }
        run_mix(threads, &job, sort_pairs(&job, counts, found, x));
    }
    free(indices);
    free(floats);
    return failed;
}

/* ---- draw: the index of the largest logit + Gumbel noise, logits [S, V] -> [S] --------------------------- */

enum { DRAW_CHUNK = 96, DRAW_COST = 16 }; /* what a token costs, in multiplications */

typedef struct {
    const float *logits;
    const int64_t *seeds, *positions;
    int64_t *out;
    int64_t vocab;
} Draw;

INLINE uint64_t mix_bits(uint64_t x) { /* splitmix64, see noise.py */
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

INLINE float gumbel_of(float u) {
    const float most = 1.0f - 0x1p-24f;
    return -logf(-log1pf(-(u < most ? u : most)));
}

/* The noise of u is at most -ln u, and u's exponent bounds that without a logarithm: few tokens need one. */
INLINE float gumbel_bound(float u) {
    uint32_t bits;
    memcpy(&bits, &u, sizeof bits);
    return (float)(127 - (int32_t)(bits >> 23)) * 0.69314719f + 1e-3f;
}

static void draw_row(void *arg, int64_t row) {
    const Draw *job = arg;
    const float *logits = job->logits + row * job->vocab;
    const uint64_t step = 0x9E3779B97F4A7C15u;
    const uint64_t state = mix_bits(mix_bits((uint64_t)job->seeds[row] + step) + (uint64_t)job->positions[row] * step);
    float u[DRAW_CHUNK], bound[DRAW_CHUNK], best = -INFINITY;
    int64_t chosen = 0;
    for (int64_t first = 0; first < job->vocab; first += DRAW_CHUNK) {
        const int64_t count = least(DRAW_CHUNK, job->vocab - first);
        int some = 0;
        for (int64_t i = 0; i < count; i++) some |= logits[first + i] > -INFINITY;
        if (!some) continue; /* constraints mostly forbid most of a vocabulary */
        for (int64_t i = 0; i < count; i++) {
            const uint64_t bits = mix_bits(state + (uint64_t)(first + i + 1) * step);
            u[i] = ((float)(int64_t)(bits >> 24) + 0.5f) * 0x1p-40f;
            bound[i] = logits[first + i] + gumbel_bound(u[i]);
        }
        for (int64_t i = 0; i < count; i++) {
            if (!(bound[i] > best)) continue;
            const float value = logits[first + i] + gumbel_of(u[i]);
            if (value > best) best = value, chosen = first + i;
        }
    }
    job->out[row] = chosen;
}

void mosso_draw(int threads, const float *logits, int64_t rows, int64_t vocab, const int64_t *seeds,
                const int64_t *positions, int64_t *out) {
    Draw job = {logits, seeds, positions, out, vocab};
    parallel(worth(threads, rows * vocab * DRAW_COST), draw_row, &job, rows);
}

/* ---- restrict: -inf for the tokens whose bit of a row's mask is 0, in place ------------------------------- */

typedef struct {
    float *logits;
    const int32_t *at;
    const uint32_t *masks;
    int64_t vocab, words;
} Restrict;

static void restrict_row(void *arg, int64_t index) {
    const Restrict *job = arg;
    float *logits = job->logits + job->at[index] * job->vocab;
    const uint32_t *mask = job->masks + index * job->words;
    for (int64_t first = 0; first < job->vocab; first += 32) {
        const uint32_t word = mask[first / 32];
        const int64_t count = least(32, job->vocab - first);
        if (word == ~0u) continue;
        for (int64_t i = 0; i < count; i++) logits[first + i] = word >> i & 1 ? logits[first + i] : -INFINITY;
    }
}

void mosso_restrict(int threads, float *logits, int64_t vocab, const int32_t *at, const int32_t *masks, int64_t rows,
                    int64_t words) {
    Restrict job = {logits, at, (const uint32_t *)masks, vocab, words};
    parallel(worth(threads, rows * vocab), restrict_row, &job, rows);
}

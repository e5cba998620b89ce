// The MXFP4 expert products of a few tokens, beside moe.py's Triton kernels, which serve many (see there for the
// layout of the words and for what is computed; the twins in moe.py define both).
//
// At a few tokens an expert product is a stream of weights with almost no arithmetic. Here the stream goes straight
// from memory to the registers of the warp that multiplies it. A warp has 16 rows (tensor core m16n8k16: weights are
// A, tokens are B) and one of the K_SPLITS shares of the columns; the shares are added through shared memory at the
// end, in order. Blocks go through (list of an expert, tile of rows) after another, and as soon as a word of one has
// been used the same word of the next is asked for, so that the stream never stops.
//
// The product sums over columns in any order, as long as A and B agree on it. Lane (g, t) of a warp, g = lane / 4,
// t = lane % 4, holds the words 4t .. 4t+3 of rows g and g + 8 of a chunk: eight bytes each, so that four lanes read
// a 32-byte sector. Word w of plane p is column 16p + w: a lane's four columns of a plane are neighbours in x, too.
//
// Compiled with -D: CHUNKS (of 64 columns in a row), SCALE_STRIDE (fields of a row), N_PADDED (rows of an expert),
// OUTPUTS (I for gate_up, H for down), EXPERTS, TOP_K, TILES (of 8 tokens), DIRECT (one token: its slots are the lists),
// GATE_UP or DOWN, ALPHA, OUT_FLOAT (parts in float32, else bfloat16).

typedef unsigned int u32;
typedef unsigned short u16;
typedef long long i64;

constexpr int SPAN = 12;                                   // chunks of one share of the columns; whole uint2 of scales
constexpr int K_SPLITS = (CHUNKS + SPAN - 1) / SPAN;
constexpr int ROW_GROUPS = 2;                              // of 16 rows: a block has one tile of the layout
constexpr int TILE_ROWS = 16 * ROW_GROUPS;
constexpr int ROW_TILES = N_PADDED / TILE_ROWS;
constexpr int PAIRS = 8 * TILES;
constexpr int COLUMNS = CHUNKS * 64;

struct List {
    int expert, first, count;                              // count: pairs from `first` on, here at most PAIRS
};

// Programmatic dependent launch. What earlier kernels of the step wrote is read after the wait, through plain loads:
// a load that the compiler may take for constant could be moved before it.
__device__ __forceinline__ void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void launch_dependents() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ float widen(u16 bits) { return __uint_as_float((u32)bits << 16); }

__device__ __forceinline__ u16 narrow(float value) {
    u16 bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

__device__ __forceinline__ uint2 load_words(const u16* at) {
    uint2 words;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(words.x), "=r"(words.y) : "l"(at));
    return words;
}

__device__ __forceinline__ u32 times(u32 pair, u32 factor) {  // bfloat16 pairs
    u32 product;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(product) : "r"(pair), "r"(factor), "r"(0x80008000u));
    return product;
}

// Two words → the bfloat16 pair of one plane, 2^-126 times the values.
template <int PLANE>
__device__ __forceinline__ u32 plane(u32 w) {
    if (PLANE == 0) return w & 0x81C081C0u;
    if (PLANE == 1) return (w << 3) & 0x81C081C0u;
    if (PLANE == 2) return (w << 6) & 0x81C081C0u;
    return ((w << 1) & 0x80008000u) | ((w >> 3) & 0x01800180u) | ((w >> 7) & 0x00400040u);
}

__device__ __forceinline__ void multiply(float (&sum)[4], u32 a0, u32 a1, u32 a2, u32 a3, uint2 b) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b.x), "r"(b.y));
}

template <int PLANE>
__device__ __forceinline__ void multiply_plane(
    float (&sums)[TILES][4], uint2 upper, uint2 lower, u32 upper_factor, u32 lower_factor, const u16* const (&x)[TILES],
    int column) {
    u32 a0 = times(plane<PLANE>(upper.x), upper_factor), a1 = times(plane<PLANE>(lower.x), lower_factor);
    u32 a2 = times(plane<PLANE>(upper.y), upper_factor), a3 = times(plane<PLANE>(lower.y), lower_factor);
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
        uint2 b = make_uint2(0, 0);
        if (DIRECT || x[tile] != nullptr) b = *reinterpret_cast<const uint2*>(x[tile] + column + 16 * PLANE);
        multiply(sums[tile], a0, a1, a2, a3, b);
    }
}

// The index-th part (of PAIRS pairs) of the experts' lists, experts in order; every warp finds it for itself.
// expert = EXPERTS: there is none. `total`: how many there are.
__device__ __forceinline__ List find_list(const int* counts, int index, int& total) {
    int lane = threadIdx.x % 32, before = 0;
    List found = {EXPERTS, 0, 0};
#pragma unroll
    for (int base = 0; base < EXPERTS; base += 32) {
        int count = base + lane < EXPERTS ? counts[base + lane] : 0;
        int parts = (count + PAIRS - 1) / PAIRS, end = parts;
#pragma unroll
        for (int step = 1; step < 32; step *= 2) {
            int other = __shfl_up_sync(0xffffffff, end, step);
            if (lane >= step) end += other;
        }
        end += before;
        u32 here = __ballot_sync(0xffffffff, end > index && end - parts <= index);
        if (here) {
            int owner = __ffs(here) - 1;
            int first = (index - __shfl_sync(0xffffffff, end - parts, owner)) * PAIRS;
            int left = __shfl_sync(0xffffffff, count, owner) - first;
            found = {base + owner, first, left < PAIRS ? left : PAIRS};
        }
        before = __shfl_sync(0xffffffff, end, 31);
    }
    total = before;
    return found;
}

// The work of a block at one time: a list and a tile of rows.
struct Unit {
    List list;
    int slot, tile;                                        // slot: of the list
};

__device__ __forceinline__ Unit find_unit(const int* chosen, const int* counts, int index, int& units) {
    int slot = index / ROW_TILES, total = TOP_K;
    List list;
    if (DIRECT) list = slot < TOP_K ? List{chosen[slot], 0, 1} : List{EXPERTS, 0, 0};
    else list = find_list(counts, slot, total);
    units = total * ROW_TILES;
    return {list, slot, index % ROW_TILES};
}

extern "C" __global__ void __launch_bounds__(32 * ROW_GROUPS * K_SPLITS, 3) expert_product(
    const u16* x,                     // gate_up: [T, H]; down: [T · k, I]
    const u16* __restrict__ words,    // [E, N_PADDED / 32, CHUNKS, 32, 16]
    const u16* __restrict__ scales,   // [E, N_PADDED, SCALE_STRIDE]
    const u16* __restrict__ bias,     // gate_up: [E, 2·I], in the order of the rows; down: [E, H]
    const int* chosen,                // [T, k]
    const float* shares,              // [T, k]
    const int* lists,                 // [E, stride]
    const int* counts,                // [E]
    void* out,                        // gate_up: [T · k, I]; down: [T · k, H]
    int stride, float limit) {
    __shared__ float shared[2][K_SPLITS][ROW_GROUPS][TILES * 4][32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int g = lane / 4, t = lane % 4;
    const int group = warp % ROW_GROUPS, split = warp / ROW_GROUPS;
#ifdef GATE_UP
    wait_for_inputs();
    launch_dependents();  // only now: whoever starts behind us may then take the routing for final
#else
    launch_dependents();  // the routing is final: gate_up let us start after its own wait
#endif
    int units;
    Unit unit = find_unit(chosen, counts, blockIdx.x, units);

    auto stream_of = [&](const Unit& u) {
        i64 row = (i64)u.list.expert * N_PADDED + u.tile * TILE_ROWS;
        return words + ((row * CHUNKS + split * SPAN * TILE_ROWS) + group * 16 + g) * 16 + 4 * t;
    };
    auto fields_of = [&](const Unit& u) {
        i64 row = (i64)u.list.expert * N_PADDED + u.tile * TILE_ROWS + group * 16 + g;
        return scales + row * SCALE_STRIDE + split * SPAN;
    };
    uint2 upper[SPAN], lower[SPAN];
    uint2 upper_fields[SPAN / 4], lower_fields[SPAN / 4];
    auto load_fields = [&](const u16* at) {
#pragma unroll
        for (int i = 0; i < SPAN / 4; ++i) {
            upper_fields[i] = __ldg(reinterpret_cast<const uint2*>(at) + i);
            lower_fields[i] = __ldg(reinterpret_cast<const uint2*>(at + 8 * SCALE_STRIDE) + i);
        }
    };
    auto load_chunk = [&](const u16* stream, int i) {
        upper[i] = load_words(stream + i * (TILE_ROWS * 16));
        lower[i] = load_words(stream + i * (TILE_ROWS * 16) + 8 * 16);
    };
    if (unit.list.expert < EXPERTS) {
        const u16* stream = stream_of(unit);
#pragma unroll
        for (int i = 0; i < SPAN; ++i)
            if (split * SPAN + i < CHUNKS) load_chunk(stream, i);
        load_fields(fields_of(unit));
    }
#ifdef DOWN
    wait_for_inputs();
#endif
    for (int index = blockIdx.x, parity = 0; unit.list.expert < EXPERTS; index += gridDim.x, parity ^= 1) {
        const int place_of_pair = unit.list.first + g;
        const u16* rows[TILES];  // of token g of each tile, from this lane's first column on
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
            rows[tile] = nullptr;
            if (DIRECT || 8 * tile + g < unit.list.count) {  // one token: every column of B is its row
                int pair = DIRECT ? unit.slot : lists[(i64)unit.list.expert * stride + place_of_pair + 8 * tile];
#ifdef GATE_UP
                pair /= TOP_K;
#endif
                rows[tile] = x + (i64)pair * COLUMNS + split * SPAN * 64 + 4 * t;
            }
        }
        Unit next = unit;
        next.list.expert = EXPERTS;
        if (index + gridDim.x < units) next = find_unit(chosen, counts, index + gridDim.x, units);
        const u16* stream = next.list.expert < EXPERTS ? stream_of(next) : nullptr;
        float sums[TILES][4] = {};
#pragma unroll
        for (int i = 0; i < SPAN; ++i) {
            if (split * SPAN + i < CHUNKS) {
                u32 high = (i / 2 % 2 ? upper_fields[i / 4].y : upper_fields[i / 4].x) >> (i % 2 * 16);
                u32 low = (i / 2 % 2 ? lower_fields[i / 4].y : lower_fields[i / 4].x) >> (i % 2 * 16);
                u32 high_first = (high & 0xFF) * 0x00800080u, high_second = (high >> 8 & 0xFF) * 0x00800080u;
                u32 low_first = (low & 0xFF) * 0x00800080u, low_second = (low >> 8 & 0xFF) * 0x00800080u;
                multiply_plane<0>(sums, upper[i], lower[i], high_first, low_first, rows, i * 64);
                multiply_plane<1>(sums, upper[i], lower[i], high_first, low_first, rows, i * 64);
                multiply_plane<2>(sums, upper[i], lower[i], high_second, low_second, rows, i * 64);
                multiply_plane<3>(sums, upper[i], lower[i], high_second, low_second, rows, i * 64);
                if (stream != nullptr) load_chunk(stream, i);
            }
        }
        if (stream != nullptr) load_fields(fields_of(next));
#pragma unroll
        for (int i = 0; i < TILES * 4; ++i) shared[parity][split][group][i][lane] = sums[i / 4][i % 4];
        __syncthreads();  // the other half of `shared` is free: all have left the round before
        if (split == 0) {
            const int row = unit.tile * TILE_ROWS + group * 16 + g;  // and row + 8
#pragma unroll
            for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
                for (int i = 0; i < 4; ++i)
#pragma unroll
                    for (int other = 1; other < K_SPLITS; ++other)
                        sums[tile][i] += shared[parity][other][group][tile * 4 + i][lane];
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    int place = 8 * tile + 2 * t + i;
                    if (place >= unit.list.count) continue;
                    int pair = DIRECT ? unit.slot : lists[(i64)unit.list.expert * stride + unit.list.first + place];
                    float upper_sum = sums[tile][i], lower_sum = sums[tile][2 + i];
#ifdef GATE_UP
                    const u16* biases = bias + (i64)unit.list.expert * (2 * OUTPUTS) + row;
                    int column = (row / 16) * 8 + g;  // eight gates, then their eight ups
                    if (column >= OUTPUTS) continue;
                    float gate = fminf(upper_sum + widen(biases[0]), limit);
                    float up = fminf(fmaxf(lower_sum + widen(biases[8]), -limit), limit);
                    float act = gate / (1.0f + __expf(-ALPHA * gate)) * (up + 1.0f);
                    static_cast<u16*>(out)[(i64)pair * OUTPUTS + column] = narrow(act);
#else
                    const u16* biases = bias + (i64)unit.list.expert * OUTPUTS + row;
                    float share = shares[pair];
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        int column = row + 8 * half;
                        if (column >= OUTPUTS) continue;
                        float part = ((half ? lower_sum : upper_sum) + widen(biases[8 * half])) * share;
                        if (OUT_FLOAT) static_cast<float*>(out)[(i64)pair * OUTPUTS + column] = part;
                        else static_cast<u16*>(out)[(i64)pair * OUTPUTS + column] = narrow(part);
                    }
#endif
                }
            }
        }
        unit = next;
    }
}

// y = x · Wᵀ + b for a few tokens: a stream of bfloat16 weights with almost no arithmetic, see experts.cu.
//
// A warp has 16 rows of W and one of the WARPS shares of the columns; the block adds the shares, in order, through
// shared memory. Lane (g, t) holds eight neighbouring columns of the rows g and g + 8 of each chunk of 32 columns
// (16 bytes each), and the same columns of x for token g of each tile of 8: they are the operands of two
// m16n8k16 products, whose inner axis is these 32 columns in an order of our own. The first LEAD chunks of weights
// are under way before the wait for x.
//
// Compiled with -D: ROWS (of W), CHUNKS (of 32 columns), WARPS, LEAD, TILES, and RESIDUAL: y is added to float32
// out; without it out is bfloat16.

typedef unsigned int u32;
typedef unsigned short u16;

constexpr int SPAN = (CHUNKS + WARPS - 1) / WARPS;
constexpr int COLUMNS = CHUNKS * 32;

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

__device__ __forceinline__ uint4 load_weights(const u16* at) {
    uint4 w;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(w.x), "=r"(w.y), "=r"(w.z), "=r"(w.w) : "l"(at));
    return w;
}

__device__ __forceinline__ void multiply(float (&sum)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ __forceinline__ float widen(u16 bits) { return __uint_as_float((u32)bits << 16); }

__device__ __forceinline__ u16 narrow(float value) {
    u16 bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

extern "C" __global__ void __launch_bounds__(32 * WARPS) dense_product(
    const u16* x,                     // [tokens, COLUMNS]
    const u16* __restrict__ weight,   // [ROWS, COLUMNS]
    const u16* __restrict__ bias,     // [ROWS]
    void* out,                        // [tokens, ROWS]
    int tokens) {
    __shared__ float shared[WARPS][TILES * 4][32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int g = lane / 4, t = lane % 4;
    const int row = blockIdx.x * 16;
    const int first = warp * SPAN;
    const u16* stream = weight + (long long)(row + g) * COLUMNS + first * 32 + 8 * t;
    launch_dependents();
    uint4 upper[LEAD], lower[LEAD];
#pragma unroll
    for (int i = 0; i < LEAD; ++i) {
        if (i < SPAN && first + i < CHUNKS) {
            upper[i] = load_weights(stream + i * 32);
            lower[i] = load_weights(stream + i * 32 + 8 * COLUMNS);
        }
    }
    wait_for_inputs();
    const u16* rows[TILES];
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
        int token = 8 * tile + g;
        rows[tile] = token < tokens ? x + (long long)token * COLUMNS + first * 32 + 8 * t : nullptr;
    }
    float sums[TILES][4] = {};
#pragma unroll
    for (int i = 0; i < SPAN; ++i) {
        if (first + i < CHUNKS) {
            uint4 a = upper[i % LEAD], b = lower[i % LEAD];
            if (i + LEAD < SPAN && first + i + LEAD < CHUNKS) {
                upper[i % LEAD] = load_weights(stream + (i + LEAD) * 32);
                lower[i % LEAD] = load_weights(stream + (i + LEAD) * 32 + 8 * COLUMNS);
            }
#pragma unroll
            for (int tile = 0; tile < TILES; ++tile) {
                uint4 v = make_uint4(0, 0, 0, 0);
                if (rows[tile] != nullptr) v = *reinterpret_cast<const uint4*>(rows[tile] + i * 32);
                multiply(sums[tile], a.x, b.x, a.y, b.y, v.x, v.y);
                multiply(sums[tile], a.z, b.z, a.w, b.w, v.z, v.w);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < TILES * 4; ++i) shared[warp][i][lane] = sums[i / 4][i % 4];
    __syncthreads();
    // Neighbouring threads have neighbouring rows of one token.
    for (int i = threadIdx.x; i < TILES * 8 * 16; i += 32 * WARPS) {
        int r = i % 16, token = i / 16;
        if (token >= tokens) break;
        int place = token / 8 * 4 + (r / 8) * 2 + token % 2, owner = (r % 8) * 4 + (token % 8) / 2;
        float sum = widen(bias[row + r]);
#pragma unroll
        for (int other = 0; other < WARPS; ++other) sum += shared[other][place][owner];
#ifdef RESIDUAL
        static_cast<float*>(out)[(long long)token * ROWS + row + r] += sum;
#else
        static_cast<u16*>(out)[(long long)token * ROWS + row + r] = narrow(sum);
#endif
    }
}

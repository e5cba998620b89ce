// The MXFP4 expert products on Hopper, for lists of middle length; moe_hopper.py defines the macros:
//
//   KERNEL    name of the kernel                 PAIRS   pairs of a block, the N side of the product
//   GATE_UP   1: gate_up with SwiGLU, 0: down    GROUPS  warpgroups that multiply, 64 rows of weights each
//   ROWS, K   of an expert's weights             DEPTH   chunks of the inner axis in a stage
//   EXPERTS   a multiple of 32                   STAGES  of the pipeline
//   TOP       experts of a token                 ALPHA   SwiGLU's
//
// An item is a tile of TILE rows of one expert's weights times one block of PAIRS of its list. The items of
// all lists, tiles innermost, are dealt out in equal runs, one to each thread block, one thread block to each
// multiprocessor: no wave of them is partial, and the pairs' numbers are read once a list.
//
// One warpgroup (the producer) streams into a ring of stages. The others (the consumers) unpack weights into
// registers, as the A operand of wgmma; the B operand, the activations, stays in shared memory:
//
//   stage    DEPTH chunks of activations [PAIRS, 64], rows of 128 bytes, swizzled as wgmma reads them; then,
//            for each 32 rows, DEPTH chunks of words as mxfp4_layout has them. cp.async of all the producer's
//            threads brings the activations, a bulk copy for each 32 rows the words. `full`: both are there;
//            `empty`: all consumer warps have read it.
//   scales   of a tile, whole rows, in two buffers with barriers of their own.
//
// A wgmma reads its registers while the warp goes on, so weights are unpacked into two sets in turn, and a
// set is written again only when the products that read it have ended.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;

constexpr int CHUNK = 64, LAYOUT_ROWS = 32;  // mxfp4_layout's CHUNK and ROWS
constexpr int TILE = 64 * GROUPS, TILES = (ROWS + TILE - 1) / TILE;
constexpr int CHUNKS = K / CHUNK, STEPS = CHUNKS / DEPTH;
constexpr int SCALE_STRIDE = (CHUNKS + 15) / 16 * 16;
constexpr int CONSUMERS = 128 * GROUPS, CONSUMER_WARPS = CONSUMERS / 32, PRODUCERS = 128;
constexpr int ACC = PAIRS / 2;  // a thread's part of a warpgroup's sums

// Bytes; the names with AT are where in shared memory something lies.
constexpr int X_CHUNK = PAIRS * CHUNK * 2;       // a chunk of the activations
constexpr int WORDS_CHUNK = LAYOUT_ROWS * 32;    // a chunk of 32 rows of words
constexpr int WORDS_PART = DEPTH * WORDS_CHUNK;  // a stage's words of 32 rows
constexpr int WORDS_IN_STAGE = DEPTH * X_CHUNK;  // where words begin
constexpr int STAGE = WORDS_IN_STAGE + TILE / LAYOUT_ROWS * WORDS_PART;
constexpr int SCALES = TILE * SCALE_STRIDE * 2;
constexpr int SCALES_AT = STAGES * STAGE, BARRIERS_AT = SCALES_AT + 2 * SCALES;
constexpr int PAIRS_AT = BARRIERS_AT + 8 * (2 * STAGES + 4), ENDS_AT = PAIRS_AT + 4 * PAIRS;

static_assert(K % CHUNK == 0 && CHUNKS % DEPTH == 0 && ROWS % LAYOUT_ROWS == 0);
static_assert(EXPERTS % 32 == 0 && PAIRS % 16 == 0 && PAIRS <= CONSUMERS);
static_assert(DEPTH >= 2, "a stage is released a step later, when all its products have ended");
static_assert(STAGE % 1024 == 0 && X_CHUNK % 1024 == 0, "wgmma's swizzle repeats every 1024 bytes");

// What a launch must know.
extern "C" __device__ const int threads = CONSUMERS + PRODUCERS;
extern "C" __device__ const int shared_bytes = ENDS_AT + 4 * EXPERTS;
static_assert(shared_bytes <= 227 << 10);

// Registers of a thread after the producer's have been handed to the consumers: multiples of 8, 64 Ki in all.
constexpr int PRODUCER_REGISTERS = GROUPS == 3 ? 56 : 72;
constexpr int CONSUMER_REGISTERS = GROUPS == 3 ? 144 : 208;

// ---- instructions. Addresses of shared memory are 32-bit numbers.

__device__ __forceinline__ void init_barrier(u32 at, u32 count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(count));
}
__device__ __forceinline__ void expect(u32 barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// The whole warp waits as one, so that the compiler need not fear that its threads go apart.
__device__ __forceinline__ void wait(u32 barrier, u32 phase) {
  u32 done;
  do {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "vote.sync.all.pred p, p, 0xffffffff;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(barrier), "r"(phase)
        : "memory");
  } while (!done);
}
// A number that all threads of the warp have, known to the compiler to be one.
__device__ __forceinline__ int uniform(int value) { return __reduce_max_sync(~0u, value); }
__device__ __forceinline__ void copy_bulk(u32 to, const void* from, u32 bytes, u32 barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}
// 16 bytes, or as many zeros.
__device__ __forceinline__ void copy_or_zero(u32 to, const void* from, bool present) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(present ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void arrive_after_copies(u32 barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void sync_consumers() {
  asm volatile("bar.sync 1, %0;" ::"n"(CONSUMERS) : "memory");
}
// Programmatic dependent launch: until the kernel ahead has ended; let the next one start.
__device__ __forceinline__ void wait_for_kernel_ahead() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}
__device__ __forceinline__ void start_next_kernel() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}
__device__ __forceinline__ int load_int(u32 at) {
  int value;
  asm volatile("ld.shared.s32 %0, [%1];" : "=r"(value) : "r"(at) : "memory");
  return value;
}
__device__ __forceinline__ void store_int(u32 at, int value) {
  asm volatile("st.shared.s32 [%0], %1;" ::"r"(at), "r"(value) : "memory");
}
__device__ __forceinline__ u32 load_u16(u32 at) {
  u16 value;
  asm volatile("ld.shared.u16 %0, [%1];" : "=h"(value) : "r"(at) : "memory");
  return value;
}
__device__ __forceinline__ void load_matrix(u32 (&words)[4], u32 at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(at)
               : "memory");
}
__device__ __forceinline__ float from_bfloat16(u16 bits) { return __uint_as_float((u32)bits << 16); }
__device__ __forceinline__ u16 to_bfloat16(float value) {
  u16 bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

// ---- unpacking: see mxfp4_layout.PLANE_SHIFTS, and _PLANE_A … _PLANE_D in moe.py

__device__ __forceinline__ u32 times(u32 values, u32 factor) {
  u32 product;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(product) : "r"(values), "r"(factor), "r"(0x80008000u));
  return product;
}
// Two words of neighbouring columns → the two columns' weights in one of the four planes.
template <int PLANE>
__device__ __forceinline__ u32 plane(u32 w, u32 factor) {
  if constexpr (PLANE == 0) return times(w & 0x81C081C0u, factor);
  if constexpr (PLANE == 1) return times(w << 3 & 0x81C081C0u, factor);
  if constexpr (PLANE == 2) return times(w << 6 & 0x81C081C0u, factor);
  return times((w << 1 & 0x80008000u) | (w >> 3 & 0x01800180u) | (w >> 7 & 0x00400040u), factor);
}
// An exponent field, byte 0 or 1 of a scale, as a pair of bfloat16.
template <int BYTE>
__device__ __forceinline__ u32 factor(u32 scale) {
  return __byte_perm(scale, 0, BYTE == 0 ? 0x4040 : 0x4141) << 7;
}

// ---- products

__device__ __forceinline__ void fence_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until no more than the last LEFT groups run.
template <int LEFT>
__device__ __forceinline__ void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

#define D8 "%0,%1,%2,%3,%4,%5,%6,%7"
#define D16 D8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define D24 D16 ",%16,%17,%18,%19,%20,%21,%22,%23"
#define D32 D24 ",%24,%25,%26,%27,%28,%29,%30,%31"
#define D48 D32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define F4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define F8(i) F4(i), F4(i + 4)
#define F16(i) F8(i), F8(i + 8)
// a0 … a3 and b are the operands' numbers, which follow those of the sums.
#define WGMMA(n, sums, a0, a1, a2, a3, b_, ...)                                                       \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" sums "}, {%" #a0 ",%" #a1 \
               ",%" #a2 ",%" #a3 "}, %" #b_ ", 1, 1, 1, 0;"                                           \
               : __VA_ARGS__                                                                          \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

// d += a · b: 64 rows of weights, 16 columns of them, PAIRS; b describes the activations in shared memory.
__device__ __forceinline__ void product(float (&d)[ACC], const u32 (&a)[4], u64 b) {
#if PAIRS == 16
  WGMMA(16, D8, 8, 9, 10, 11, 12, F8(0));
#elif PAIRS == 32
  WGMMA(32, D16, 16, 17, 18, 19, 20, F16(0));
#elif PAIRS == 48
  WGMMA(48, D24, 24, 25, 26, 27, 28, F16(0), F8(16));
#elif PAIRS == 64
  WGMMA(64, D32, 32, 33, 34, 35, 36, F16(0), F16(16));
#elif PAIRS == 96
  WGMMA(96, D48, 48, 49, 50, 51, 52, F16(0), F16(16), F16(32));
#else
#error "PAIRS: 16, 32, 48, 64 or 96"
#endif
}
// Sums are read only behind this: the compiler does not know that wait_products is about them.
__device__ __forceinline__ void keep_behind(float (&d)[ACC]) {
#pragma unroll
  for (int i = 0; i < ACC; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// ---- what both sides walk through

// A place in a ring of SIZE buffers and the parity of the round, which its barriers are waited for by.
template <int SIZE>
struct Ring {
  int at = 0;
  u32 phase = 0;
  __device__ __forceinline__ void next() {
    if (++at == SIZE) at = 0, phase ^= 1;
  }
};

struct Item {
  int expert, block, tile;
};
// `ends` has, for each expert, the number of blocks up to its last one.
__device__ __forceinline__ int blocks_of(u32 ends, int expert) {
  return load_int(ends + 4 * expert) - (expert > 0 ? load_int(ends + 4 * expert - 4) : 0);
}
// To the next item; whether it has another block of pairs.
__device__ __forceinline__ bool advance(Item& item, u32 ends) {
  if (++item.tile < TILES) return false;
  item.tile = 0;
  if (++item.block < blocks_of(ends, item.expert)) return true;
  item.block = 0;
  do ++item.expert;
  while (item.expert < EXPERTS && blocks_of(ends, item.expert) == 0);
  return true;
}
// By one warp: the item of a number, of all that there are.
__device__ __forceinline__ Item item_of(int number, u32 ends, int lane) {
  Item item{0, number / TILES, number % TILES};
  for (int e = lane; e < EXPERTS; e += 32)
    item.expert += __popc(__ballot_sync(~0u, load_int(ends + 4 * e) <= item.block));
  if (item.expert > 0) item.block -= load_int(ends + 4 * item.expert - 4);
  return item;
}
// By one warp: the running sum of the lists' blocks.
__device__ __forceinline__ void count_blocks(const int* counts, u32 ends, int lane) {
  int sum = 0;
  for (int first = 0; first < EXPERTS; first += 32) {
    int blocks = (counts[first + lane] + PAIRS - 1) / PAIRS;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(~0u, blocks, step);
      if (lane >= step) blocks += other;
    }
    store_int(ends + 4 * (first + lane), sum + blocks);
    sum += __shfl_sync(~0u, blocks, 31);
  }
}

// Shared memory, by its addresses.
struct Memory {
  u32 base;
  __device__ __forceinline__ u32 stage(int slot) const { return base + slot * STAGE; }
  __device__ __forceinline__ u32 scales(int buffer) const { return base + SCALES_AT + buffer * SCALES; }
  __device__ __forceinline__ u32 full(int slot) const { return base + BARRIERS_AT + 8 * slot; }
  __device__ __forceinline__ u32 empty(int slot) const { return full(STAGES + slot); }
  __device__ __forceinline__ u32 scales_full(int buffer) const { return full(2 * STAGES + buffer); }
  __device__ __forceinline__ u32 scales_empty(int buffer) const { return full(2 * STAGES + 2 + buffer); }
  __device__ __forceinline__ u32 pair(int place) const { return base + PAIRS_AT + 4 * place; }
  __device__ __forceinline__ u32 ends() const { return base + ENDS_AT; }
};

// ---- the producer

__device__ __forceinline__ void produce(const Memory memory, Item item, int items, int thread, const u16* x,
                                        const u16* words, const u16* scales, const int* lists,
                                        const int* counts, int stride) {
  // A thread copies 16 bytes (`part` of eight) of the pairs n, n + 16, … of each chunk; the first warp also
  // streams the weights.
  const int part = thread % 8, n = thread / 8, lane = thread % 32;
  const bool streams = thread < 32;
  Ring<STAGES> ring;
  Ring<2> buffers;
  const u16* rows_at[PAIRS / 16];
  u32 present = 0;  // a bit a pair
  bool fresh = true, waited = GATE_UP;
  for (; items > 0; --items) {
    const int row = item.tile * TILE, rows = min(TILE, ROWS - row);
    const long long first_row = (long long)item.expert * ROWS + row;
    if (streams) {
      wait(memory.scales_empty(buffers.at), buffers.phase ^ 1);
      if (lane == 0) {
        const u32 bytes = rows * SCALE_STRIDE * 2, barrier = memory.scales_full(buffers.at);
        expect(barrier, bytes);
        copy_bulk(memory.scales(buffers.at), scales + first_row * SCALE_STRIDE, bytes, barrier);
      }
      buffers.next();
    }
    if (fresh) {
      present = 0;
      const int count = counts[item.expert];
#pragma unroll
      for (int i = 0; i < PAIRS / 16; ++i) {
        const int place = item.block * PAIRS + n + 16 * i;
        const int pair = place < count ? lists[(long long)item.expert * stride + place] : 0;
        if (place < count) present |= 1u << i;
        rows_at[i] = x + (long long)(GATE_UP ? pair / TOP : pair) * K + part * 8;
      }
    }
    const u16* tile_words = words + first_row * (CHUNKS * 16);
    for (int step = 0; step < STEPS; ++step) {
      wait(memory.empty(ring.at), ring.phase ^ 1);
      const u32 stage = memory.stage(ring.at), full = memory.full(ring.at);
      if (streams) {
        if (lane == 0) expect(full, rows / LAYOUT_ROWS * WORDS_PART);
        __syncwarp();
        if (lane < rows / LAYOUT_ROWS)
          copy_bulk(stage + WORDS_IN_STAGE + lane * WORDS_PART,
                    tile_words + (lane * CHUNKS + step * DEPTH) * (LAYOUT_ROWS * 16), WORDS_PART, full);
      }
      if (!waited) {  // down's weights come while gate_up ends, whose results are read from here on
        wait_for_kernel_ahead();
        waited = true;
      }
      const u32 to = stage + n * 128 + ((part ^ n) & 7) * 16;
#pragma unroll
      for (int i = 0; i < PAIRS / 16; ++i)
#pragma unroll
        for (int c = 0; c < DEPTH; ++c)
          copy_or_zero(to + c * X_CHUNK + i * 2048, rows_at[i] + (step * DEPTH + c) * CHUNK,
                       present >> i & 1);
      arrive_after_copies(full);
      ring.next();
    }
    fresh = advance(item, memory.ends());
  }
  asm volatile("cp.async.wait_all;" ::: "memory");
}

// ---- the consumers

// One stage's chunks into the sums. They go through the two sets of registers `a` in turn, from set FIRST on.
template <int FIRST>
__device__ __forceinline__ void multiply(float (&acc)[ACC], u32 (&a)[2][4][4], u32 stage, u32 words_at,
                                         u32 scales) {
  constexpr int BELOW = 8 * SCALE_STRIDE * 2;  // from a row's scales to those of the row eight below
  // K-major, swizzled by 128 bytes, eight pairs every 1024 bytes.
  const u32 words = stage + words_at, b = uniform((stage >> 4) | (1u << 16));
  u32 w[2][4], s[2][2];
  load_matrix(w[0], words);
  s[0][0] = load_u16(scales), s[0][1] = load_u16(scales + BELOW);
#pragma unroll
  for (int c = 0; c < DEPTH; ++c) {
    u32(&weights)[4][4] = a[(c + FIRST) % 2];
    if (c + 1 < DEPTH) {
      load_matrix(w[(c + 1) % 2], words + (c + 1) * WORDS_CHUNK);
      s[(c + 1) % 2][0] = load_u16(scales + (c + 1) * 2);
      s[(c + 1) % 2][1] = load_u16(scales + (c + 1) * 2 + BELOW);
    }
    wait_products<1>();  // those that read these registers have ended
    const u32 f0 = factor<0>(s[c % 2][0]), f1 = factor<0>(s[c % 2][1]);
    const u32 h0 = factor<1>(s[c % 2][0]), h1 = factor<1>(s[c % 2][1]);
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      weights[0][r] = plane<0>(w[c % 2][r], r % 2 ? f1 : f0);
      weights[1][r] = plane<1>(w[c % 2][r], r % 2 ? f1 : f0);
      weights[2][r] = plane<2>(w[c % 2][r], r % 2 ? h1 : h0);
      weights[3][r] = plane<3>(w[c % 2][r], r % 2 ? h1 : h0);
    }
    fence_products();
#pragma unroll
    for (int p = 0; p < 4; ++p)
      product(acc, weights[p], (u64)(b + c * (X_CHUNK >> 4) + p * 2) | (64ull << 32) | (1ull << 62));
    commit_products();
  }
}

// Write out a thread's sums: of the rows row and row + 8 (a gate and its up: see interleave_gate_up) and the
// block's pairs 8·i + 2·t + j, t being the thread's place in its four.
__device__ __forceinline__ void store(const Memory memory, const float (&acc)[ACC], u16* out, int row, int t,
                                      int present, float first_bias, float second_bias,
                                      const float* __restrict__ shares, float limit) {
#pragma unroll
  for (int i = 0; i < ACC / 4; ++i)
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int n = 8 * i + 2 * t + j;
      if (n >= present) continue;
      const int pair = load_int(memory.pair(n));
      const float first = acc[4 * i + j] + first_bias, second = acc[4 * i + 2 + j] + second_bias;
#if GATE_UP
      const float gate = fminf(first, limit), up = fminf(fmaxf(second, -limit), limit);
      const float act = gate / (1.f + __expf(-ALPHA * gate)) * (up + 1.f);
      out[(long long)pair * (ROWS / 2) + row / 16 * 8 + row % 8] = to_bfloat16(act);
#else
      const float share = shares[pair];
      out[(long long)pair * ROWS + row] = to_bfloat16(first * share);
      out[(long long)pair * ROWS + row + 8] = to_bfloat16(second * share);
#endif
    }
}

__device__ __forceinline__ void consume(const Memory memory, Item item, int items, int thread, int warp,
                                        const u16* bias, const int* lists, const int* counts,
                                        const float* __restrict__ shares, u16* out, int stride, float limit) {
  const int lane = thread % 32, g = lane / 4, t = lane % 4;
  const int own_row = warp * 16;  // of the tile
  const u32 words_at = WORDS_IN_STAGE + own_row / LAYOUT_ROWS * WORDS_PART +
                       (own_row % LAYOUT_ROWS + lane / 8 % 2 * 8 + lane % 8) * 32 + lane / 16 * 16;
  const u32 scales_at = (own_row + g) * SCALE_STRIDE * 2;
  Ring<STAGES> ring;
  Ring<2> buffers;
  int present = 0;
  bool fresh = true, told = GATE_UP;
  for (; items > 0; --items) {
    if (fresh) {
      sync_consumers();  // all have read the numbers of the block before
      present = min(PAIRS, counts[item.expert] - item.block * PAIRS);
      if (thread < present)
        store_int(memory.pair(thread), lists[(long long)item.expert * stride + item.block * PAIRS + thread]);
      sync_consumers();
    }
    const int row = item.tile * TILE + own_row + g;
    const bool inside = row + 8 < ROWS;  // else the whole warp multiplies what is never stored
    float first_bias = 0.f, second_bias = 0.f;
    if (inside) {
      first_bias = from_bfloat16(bias[(long long)item.expert * ROWS + row]);
      second_bias = from_bfloat16(bias[(long long)item.expert * ROWS + row + 8]);
    }
    float acc[ACC];
#pragma unroll
    for (int i = 0; i < ACC; ++i) acc[i] = 0.f;
    wait(memory.scales_full(buffers.at), buffers.phase);
    const u32 scales = memory.scales(buffers.at) + scales_at;
    u32 a[2][4][4];

    int before = -1;  // the stage of the step before
    auto begin = [&] {
      wait(memory.full(ring.at), ring.phase);
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // wgmma sees what cp.async wrote
      return memory.stage(ring.at);
    };
    // A stage is released when its activations have been read, which is known a step later.
    auto end = [&] {
      if (before >= 0 && lane == 0) arrive(memory.empty(before));
      before = ring.at;
      ring.next();
    };
    int step = 0;
#pragma unroll 1
    for (; step + 1 < STEPS; step += 2) {
      multiply<0>(acc, a, begin(), words_at, scales + step * (DEPTH * 2));
      end();
      multiply<DEPTH % 2>(acc, a, begin(), words_at, scales + (step + 1) * (DEPTH * 2));
      end();
    }
    if (STEPS % 2) {
      multiply<0>(acc, a, begin(), words_at, scales + step * (DEPTH * 2));
      end();
    }
    wait_products<0>();
    keep_behind(acc);
    __syncwarp();
    if (lane == 0) arrive(memory.empty(before)), arrive(memory.scales_empty(buffers.at));
    buffers.next();

    if (!told) {  // kernels ahead may still read what `out` was; and none behind takes memory from them
      wait_for_kernel_ahead();
      start_next_kernel();
      told = true;
    }
    if (inside) store(memory, acc, out, row, t, present, first_bias, second_bias, shares, limit);
    fresh = advance(item, memory.ends());
  }
}

//   x                     bfloat16 [T, K] for gate_up, [T · TOP, K] for down
//   words, scales, bias   of EXPERTS matrices [ROWS, K]
//   lists, counts         [EXPERTS, stride], [EXPERTS]. Written when this kernel may already run, hence not
//                         __restrict__, which would let them be read through a cache that is not coherent
//   shares                [T · TOP], read by down only
//   out                   bfloat16 [T · TOP, ROWS / 2] for gate_up, [T · TOP, ROWS] for down; only the rows
//                         of listed pairs are written
extern "C" __global__ void __launch_bounds__(CONSUMERS + PRODUCERS, 1)
    KERNEL(const u16* __restrict__ x, const u16* __restrict__ words, const u16* __restrict__ scales,
           const u16* __restrict__ bias, const int* lists, const int* counts, const float* __restrict__ shares,
           u16* __restrict__ out, int stride, float limit) {
  extern __shared__ __align__(1024) unsigned char raw[];
  const Memory memory{(u32)__cvta_generic_to_shared(raw)};
  const int thread = threadIdx.x, warp = uniform(thread / 32), lane = thread % 32;

  if (thread == 0) {
    for (int s = 0; s < STAGES; ++s) {
      init_barrier(memory.full(s), PRODUCERS + 1);  // each thread's copies, and the expected bytes
      init_barrier(memory.empty(s), CONSUMER_WARPS);
    }
    for (int s = 0; s < 2; ++s) {
      init_barrier(memory.scales_full(s), 1);
      init_barrier(memory.scales_empty(s), CONSUMER_WARPS);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  if (GATE_UP) {
    wait_for_kernel_ahead();
    start_next_kernel();  // only now: down then takes the routing for final before its own wait
  }
  if (warp == 0) count_blocks(counts, memory.ends(), lane);
  __syncthreads();
  const long long total = (long long)load_int(memory.ends() + 4 * (EXPERTS - 1)) * TILES;
  const int first = uniform(total * blockIdx.x / gridDim.x);
  const int last = uniform(total * (blockIdx.x + 1) / gridDim.x);
  if (first == last) return;
  const Item item = item_of(first, memory.ends(), lane);

  if (warp >= CONSUMER_WARPS) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(PRODUCER_REGISTERS));
    produce(memory, item, last - first, thread - CONSUMERS, x, words, scales, lists, counts, stride);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(CONSUMER_REGISTERS));
    consume(memory, item, last - first, thread, warp, bias, lists, counts, shares, out, stride, limit);
  }
}

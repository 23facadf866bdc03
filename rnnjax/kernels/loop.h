// What the loop forwards and the loop backwards have in common: what XLA hands over, who computes
// which part, and the product of a few rows with a panel of weights.
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <thread>
#include <utility>

#include "xla/ffi/api/c_api.h"

constexpr int BLOCKS = (N + LANES - 1) / LANES;  // vectors of one gate
constexpr int APARTS = APART_COUNT ? APART_COUNT : 1;
constexpr int STREAMS_ = STREAMS ? STREAMS : 1;
constexpr int VECTORS_ = VECTORS ? VECTORS : 1;
constexpr int GN = G * N;

// --- threads ---

// Runs work(thread, threads, context) on so many threads or fewer; set when the library is loaded.
typedef void (*Work)(int, int, void*);
static void (*parallel)(Work, void*, int) = nullptr;
static int (*cores)() = nullptr;
extern "C" void set_parallel(void (*function)(Work, void*, int), int (*count)()) {
  parallel = function;
  cores = count;
}

INLINE void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

typedef std::chrono::steady_clock Clock;

struct Barrier {
  alignas(64) std::atomic<int> arrived{0};
  alignas(64) std::atomic<int> round{0};
  std::atomic<int64_t> held_up{0};  // for so many nanoseconds, of all threads, once all were there

  void wait(int threads) {
    if (threads == 1) return;
    int now = round.load(std::memory_order_relaxed);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
      arrived.store(0, std::memory_order_relaxed);
      round.store(now + 1, std::memory_order_release);
    }
    for (int turns = 0; turns < 1 << 10; turns++) {
      if (round.load(std::memory_order_acquire) != now) return;
      pause_briefly();
    }
    wait_long(now);
  }

  // With fewer cores than threads, the one waited for may need this core.
  void wait_long(int now) {
    auto begin = Clock::now();
    while (round.load(std::memory_order_acquire) == now) std::this_thread::yield();
    if (now > 0) held_up += std::chrono::nanoseconds(Clock::now() - begin).count();
  }
};

struct Range {
  int begin, end;
};

// The share of one thread of n things.
INLINE Range share(int n, int thread, int threads) {
  return {(int)((int64_t)n * thread / threads), (int)((int64_t)n * (thread + 1) / threads)};
}

// Few rows are split by hidden units, which takes a barrier a step; more are split as they are,
// which takes none and so does not wait for a thread that had to leave its core.
INLINE bool split_units(int rows, int threads) { return rows < 6 * threads; }

// Threads that wait for each other at every step are all held up by one that has to share its core.
// After a call that was spent so, calls are left to one thread for a while.
constexpr std::chrono::milliseconds ALONE{50};
static std::atomic<Clock::time_point> alone_until{Clock::time_point::min()};

// So many threads that a step of each is worth the wait for the others.
INLINE int useful_threads(int rows, int panels) {
  double flops = 2.0 * rows * N * GN;
  int most = flops < 4e4 ? 1 : (int)std::min(flops / 2e4, (double)cores());
  if (!split_units(rows, most)) return most;
  return Clock::now() < alone_until.load(std::memory_order_relaxed) ? 1 : std::min(most, panels);
}

template <class Loop>
INLINE void run_parallel(Work work, Loop& loop, int panels) {
  auto begin = Clock::now();
  parallel(work, &loop, useful_threads(loop.travel.B, panels));
  auto end = Clock::now();
  auto spent = std::chrono::nanoseconds(end - begin).count();
  bool waiting = loop.barrier.held_up > spent * loop.threads / 4;
  if (waiting && split_units(loop.travel.B, loop.threads))
    alone_until.store(end + ALONE, std::memory_order_relaxed);
}

// Calls tile(picked, height) for the rows that the mask leaves, if there is one, cut as evenly as
// they can be: 16 = 6 + 5 + 5, not 6 + 6 + 4.
template <int HIGHEST, class Tile>
INLINE void for_tiles(Range rows, const bool* mask, Tile tile) {
  int count = rows.end - rows.begin, next = rows.begin;
  if (mask) count = (int)std::count(mask + rows.begin, mask + rows.end, true);
  int tiles = (count + HIGHEST - 1) / HIGHEST;
  for (int i = 0; i < tiles; i++) {
    int height = count / tiles + (i < count % tiles), picked[HIGHEST];
    for (int r = 0; r < height; next++)
      if (!mask || mask[next]) picked[r++] = next;
    tile(picked, height);
  }
}

// Calls function<HEIGHT>() with a height known to the compiler.
template <int HIGHEST, class Function>
INLINE void with_height(int height, Function function) {
  if (height == HIGHEST) {
    function.template operator()<HIGHEST>();
  } else if constexpr (HIGHEST > 1) {
    with_height<HIGHEST - 1>(height, function);
  }
}

// --- products ---

// How many rows of vectors a panel of K weights has: of bfloat16 a lane holds two.
constexpr size_t depth(size_t K) { return BFLOAT16 ? (K + 1) / 2 : K; }

// What is multiplied: a number, or its rounded half.
#if BFLOAT16
typedef uint16_t factor;
#else
typedef float factor;
#endif

INLINE void store_factors(factor* p, vec x) {
#if BFLOAT16
  halves rounded = round_to_halves(x);
  std::memcpy(p, &rounded, sizeof(rounded));
#else
  store(p, x);
#endif
}

// The nearest numbers that factors can be.
INLINE vec as_factors(vec x) { return BFLOAT16 ? (vec)upper_half(x) : x; }

INLINE vec load_factors(const factor* p) {
#if BFLOAT16
  halves rounded;
  std::memcpy(&rounded, p, sizeof(rounded));
  return (vec)(__builtin_convertvector(rounded, words) << 16);
#else
  return load(p);
#endif
}

// The k-th factor of a row in every lane; of bfloat16 the k-th two.
INLINE vec fill_factor(const void* row, size_t k) {
#if BFLOAT16
  int32_t two;
  std::memcpy(&two, (const char*)row + k * sizeof(two), sizeof(two));
  return (vec)fill_truth(two);
#else
  return fill(((const float*)row)[k]);
#endif
}

INLINE vec add_product(vec sum, vec w, vec x) {
  return BFLOAT16 ? add_pairs(sum, w, x) : sum + w * x;
}

// sums[v][r] += row r of K factors times a panel (depth(K), WIDE vectors).
template <int K, int WIDE, int ROWS>
INLINE void multiply_factors(const factor* const (&rows)[ROWS], const float* panel,
                             vec (&sums)[WIDE][ROWS]) {
  for (size_t k = 0; k < depth(K); k++) {
    vec w[WIDE];
    UNROLL for (int v = 0; v < WIDE; v++) w[v] = load(panel + (k * WIDE + v) * LANES);
    UNROLL for (int r = 0; r < ROWS; r++) {
      vec x = fill_factor(rows[r], k);
      UNROLL for (int v = 0; v < WIDE; v++) sums[v][r] = add_product(sums[v][r], w[v], x);
    }
  }
}

// The same of numbers, which are rounded first where factors are.
template <int K, int WIDE, int ROWS>
INLINE void multiply(const float* const (&rows)[ROWS], const float* panel,
                     vec (&sums)[WIDE][ROWS]) {
#if BFLOAT16
  alignas(64) factor rounded[ROWS][K / LANES * LANES + LANES];
  const factor* factors[ROWS];
  for (int r = 0; r < ROWS; r++) {
    factors[r] = rounded[r];
    for (int k = 0; k < K; k += LANES)
      store_factors(rounded[r] + k, load_some<K ? K : 1>(rows[r], k));
  }
  multiply_factors<K>(factors, panel, sums);
#else
  multiply_factors<K>(rows, panel, sums);
#endif
}

// --- what XLA hands over ---

struct Buffer {
  float* data;
  const bool* flags;
  const int64_t* sizes;
  int64_t count;
  bool given;  // An array without entries stands for none.
};

INLINE Buffer buffer(void* argument) {
  auto* b = (XLA_FFI_Buffer*)argument;
  int64_t count = 1;
  for (int64_t i = 0; i < b->rank; i++) count *= b->dims[i];
  return {(float*)b->data, (const bool*)b->data, b->dims, count, count > 0};
}

// Fresh memory costs a page fault every 4 KiB; every 2 MiB where the system allows.
INLINE void want_huge_pages(const Buffer& b) {
#if defined(MADV_HUGEPAGE)
  const uintptr_t page = 1 << 21;
  uintptr_t begin = ((uintptr_t)b.data + page - 1) / page * page;
  uintptr_t end = ((uintptr_t)b.data + b.count * sizeof(float)) / page * page;
  if (begin < end) madvise((void*)begin, end - begin, MADV_HUGEPAGE);
#endif
}

INLINE Buffer argument(XLA_FFI_CallFrame* frame, int k) { return buffer(frame->args.args[k]); }
INLINE Buffer result(XLA_FFI_CallFrame* frame, int k) { return buffer(frame->rets.rets[k]); }

// The one attribute: an array of int64.
INLINE const int64_t* options(XLA_FFI_CallFrame* frame) {
  return (const int64_t*)((XLA_FFI_Array*)frame->attrs.attrs[0])->data;
}

// XLA asks every handler which version of its interface it was compiled for.
INLINE bool answer_query(XLA_FFI_CallFrame* frame) {
  for (auto* e = frame->extension_start; e; e = e->next) {
    if (e->type != XLA_FFI_Extension_Metadata) continue;
    auto* metadata = ((XLA_FFI_Metadata_Extension*)e)->metadata;
    metadata->api_version.major_version = XLA_FFI_API_MAJOR;
    metadata->api_version.minor_version = XLA_FFI_API_MINOR;
    metadata->traits = 0;
    metadata->state_type_id = XLA_FFI_UNKNOWN_TYPE_ID;
    return true;
  }
  return false;
}

// Where a step finds its carry: which time it is, and which was before.
struct Travel {
  int T, B;
  bool reverse;
  const bool *mask, *resets;

  int time(int i) const { return reverse ? T - 1 - i : i; }
  size_t row(int i, int b) const { return (size_t)time(i) * B + b; }
  const bool* mask_of(int i) const { return mask ? mask + row(i, 0) : nullptr; }
  bool masked(int i, int b) const { return mask && !mask[row(i, b)]; }
  bool reset(int i, int b) const { return resets && resets[row(i, b)]; }
};

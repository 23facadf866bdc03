// The loop of one cell over T steps of B rows.
//
//   z = x W_x + b + h W_h,  carry = update(carry, z)
//
// Weights are packed into panels, each WIDE vectors wide: U vectors of hidden units with all their
// gates side by side, so that update finds what it reads in the registers where it was summed up.

constexpr int WIDE = U * G;
constexpr int WIDTH = WIDE * LANES;
constexpr int PANELS = (N + U * LANES - 1) / (U * LANES);
constexpr int FIT = (REGISTERS - WIDE - 1) / WIDE;  // rows, of which the sums stay in registers
constexpr int HIGHEST = FIT < 1 ? 1 : FIT > 8 ? 8 : FIT;

struct Forward {
  Travel travel;
  int block;  // steps of which x W_x is taken at a time; 0: in each step
  int threads;
  const float *x, *w_x, *b, *w_h, *vectors, *carry, *initial, *streams;
  float *states, *memory, *last, *saved;
  float *panels_h, *panels_x, *panels_b, *projected;
  Barrier barrier;
};

struct Part {
  Range rows, panels;
};

static Part part_of(const Forward& f, int thread) {
  Part all = {{0, f.travel.B}, {0, PANELS}};
  if (split_units(f.travel.B, f.threads)) {
    all.panels = share(PANELS, thread, f.threads);
  } else {
    all.rows = share(f.travel.B, thread, f.threads);
  }
  return all;
}

// Vector v of a panel's weights from entry k.
INLINE vec weights(const float* w, int K, int k, int p, int v) {
  int j = p * U * LANES + v / G * LANES;
  return j < N && k < K ? load_some<N>(w + (size_t)k * GN + v % G * N, j) : fill(0.f);
}

static void pack(const float* w, int K, float* panels, Range which) {
  for (int p = which.begin; p < which.end; p++)
    for (size_t k = 0; k < depth(K); k++)
      for (int v = 0; v < WIDE; v++)
        store(panels + ((p * depth(K) + k) * WIDE + v) * LANES,
              BFLOAT16 ? pair(weights(w, K, 2 * k, p, v), weights(w, K, 2 * k + 1, p, v))
                       : weights(w, K, k, p, v));
}

static void pack_bias(const float* b, float* panels, Range which) {
  for (int p = which.begin; p < which.end; p++)
    for (int v = 0; v < WIDE; v++)
      store(panels + ((size_t)p * WIDE + v) * LANES, weights(b, 1, 0, p, v));
}

// Where the projected input of a row lies: panel by panel, the rows of one thread together.
INLINE float* projected(const Forward& f, Range rows, int p, int step, int b) {
  int own = rows.end - rows.begin;
  size_t row = (size_t)rows.begin * f.block + (size_t)step * own + (b - rows.begin);
  return f.projected + ((size_t)p * f.block * f.travel.B + row) * WIDTH;
}

template <int ROWS>
INLINE void start(const Forward& f, int p, vec (&sums)[WIDE][ROWS]) {
  UNROLL for (int v = 0; v < WIDE; v++)
      UNROLL for (int r = 0; r < ROWS; r++) sums[v][r] = load(f.panels_b + p * WIDTH + v * LANES);
}

// x W_x + b of some rows of a block of steps, rows counted through from step i on.
template <int ROWS>
static void project_tile(const Forward& f, Range rows, int i, int first, int p) {
  const float* x[ROWS];
  vec sums[WIDE][ROWS];
  int own = rows.end - rows.begin;
  for (int r = 0; r < ROWS; r++)
    x[r] = f.x + f.travel.row(i + (first + r) / own, rows.begin + (first + r) % own) * D;
  start<ROWS>(f, p, sums);
  multiply<D>(x, f.panels_x + p * depth(D) * WIDTH, sums);
  float* out = projected(f, rows, p, 0, rows.begin) + (size_t)first * WIDTH;
  for (int r = 0; r < ROWS; r++)
    for (int v = 0; v < WIDE; v++) store(out + r * WIDTH + v * LANES, sums[v][r]);
}

static void project(const Forward& f, Part part, int i) {
  int steps = i + f.block <= f.travel.T ? f.block : f.travel.T - i;
  Range counted = {0, steps * (part.rows.end - part.rows.begin)};
  for (int p = part.panels.begin; p < part.panels.end; p++)
    for_tiles<HIGHEST>(counted, nullptr, [&](const int* picked, int height) {
      with_height<HIGHEST>(height, [&]<int ROWS>() {
        project_tile<ROWS>(f, part.rows, i, picked[0], p);
      });
    });
}

// The preactivations of a few rows and one panel: z, and the input's part of gates kept apart.
struct Tile {
  vec z[HIGHEST][WIDE], v[HIGHEST][U * APARTS];
};

INLINE const float* hidden_before(const Forward& f, int i, int b) {
  size_t own = HIDDEN * (size_t)f.travel.B * N + (size_t)b * N;
  if (f.travel.reset(i, b)) return f.initial + own;
  return i ? f.states + f.travel.row(i - 1, b) * N : f.carry + own;
}

template <int ROWS>
static void multiply_tile(const Forward& f, Range rows, int i, const int* picked, int p,
                          Tile& tile) {
  const float *h[ROWS], *x[ROWS];
  vec sums[WIDE][ROWS];
  for (int r = 0; r < ROWS; r++) h[r] = hidden_before(f, i, picked[r]);
  if (D && f.block) {
    for (int r = 0; r < ROWS; r++) {
      const float* own = projected(f, rows, p, i % f.block, picked[r]);
      UNROLL for (int v = 0; v < WIDE; v++) sums[v][r] = load(own + v * LANES);
    }
  } else if (D) {
    for (int r = 0; r < ROWS; r++) x[r] = f.x + f.travel.row(i, picked[r]) * D;
    start<ROWS>(f, p, sums);
    multiply<D>(x, f.panels_x + p * depth(D) * WIDTH, sums);
  } else {
    UNROLL for (int v = 0; v < WIDE; v++)
        UNROLL for (int r = 0; r < ROWS; r++) sums[v][r] = fill(0.f);
  }
  UNROLL for (int v = 0; v < WIDE; v++) {
    if (APART[v % G] < 0) continue;
    UNROLL for (int r = 0; r < ROWS; r++) {
      tile.v[r][v / G * APARTS + APART[v % G]] = sums[v][r];
      sums[v][r] = fill(0.f);
    }
  }
  multiply<N>(h, f.panels_h + p * depth(N) * WIDTH, sums);
  UNROLL for (int v = 0; v < WIDE; v++)
      UNROLL for (int r = 0; r < ROWS; r++) tile.z[r][v] = sums[v][r];
}

INLINE void read_carry(const Forward& f, int i, int b, int j, vec* c) {
  size_t own = (size_t)b * N, plane = (size_t)f.travel.B * N;
  const float* others = f.travel.reset(i, b) ? f.initial : i ? f.last : f.carry;
  for (int k = 0; k < C; k++)
    c[k] = load_some<N>(k == HIDDEN ? hidden_before(f, i, b) : others + k * plane + own, j);
}

INLINE void leave_carry(const Forward& f, int i, int b, int j, const vec* next) {
  size_t row = f.travel.row(i, b), own = (size_t)b * N, plane = (size_t)f.travel.B * N;
  store_some<N>(f.states + row * N, j, next[HIDDEN]);
  for (int k = 0, other = 0; k < C; k++) {
    if (k != HIDDEN || i == f.travel.T - 1) store_some<N>(f.last + k * plane + own, j, next[k]);
    if (k != HIDDEN && f.memory)
      store_some<N>(f.memory + (row * (C - 1) + other) * N, j, next[k]);
    other += k != HIDDEN;
  }
}

INLINE float* saved(const Forward& f, int i, int b, int k) {
  return f.saved + (f.travel.row(i, b) * (G + APART_COUNT) + k) * N;
}

// The update of one row, for hidden units [j, j + LANES).
static void update_units(const Forward& f, int i, int b, int j, const vec* z, const vec* v) {
  size_t row = f.travel.row(i, b);
  vec c[C], next[C], s[STREAMS_], vectors[VECTORS_];
  read_carry(f, i, b, j, c);
  for (int k = 0; k < STREAMS; k++) s[k] = load_some<N>(f.streams + (row * STREAMS + k) * N, j);
  for (int k = 0; k < VECTORS; k++) vectors[k] = load_some<N>(f.vectors + k * N, j);
  update(c, z, v, s, vectors, next);
  leave_carry(f, i, b, j, next);
  if (!f.saved) return;
  for (int g = 0; g < G; g++) store_some<N>(saved(f, i, b, g), j, z[g]);
  for (int k = 0; k < APART_COUNT; k++) store_some<N>(saved(f, i, b, G + k), j, v[k]);
}

// Where a row is masked its carry passes on, and nothing is computed.
static void pass_on(const Forward& f, Part part, int i) {
  int end = std::min(N, part.panels.end * U * LANES);
  for (int b = part.rows.begin; b < part.rows.end; b++) {
    if (!f.travel.masked(i, b)) continue;
    for (int j = part.panels.begin * U * LANES; j < end; j += LANES) {
      vec c[C];
      read_carry(f, i, b, j, c);
      leave_carry(f, i, b, j, c);
      if (f.saved)
        for (int k = 0; k < G + APART_COUNT; k++) store_some<N>(saved(f, i, b, k), j, fill(0.f));
    }
  }
}

static void step_tile(const Forward& f, Range rows, int i, const int* picked, int height, int p) {
  Tile tile;
  with_height<HIGHEST>(height,
                       [&]<int ROWS>() { multiply_tile<ROWS>(f, rows, i, picked, p, tile); });
  for (int unit = 0; unit < U; unit++) {
    int j = (p * U + unit) * LANES;
    if (j >= N) break;
    for (int r = 0; r < height; r++)
      update_units(f, i, picked[r], j, tile.z[r] + unit * G, tile.v[r] + unit * APARTS);
  }
}

static void run(int thread, int threads, void* context) {
  Forward& f = *(Forward*)context;
  if (thread == 0) f.threads = threads;
  Range own = share(PANELS, thread, threads);
  pack(f.w_h, N, f.panels_h, own);
  if (D) pack(f.w_x, D, f.panels_x, own);
  if (D) pack_bias(f.b, f.panels_b, own);
  f.barrier.wait(threads);
  Part part = part_of(f, thread);
  for (int i = 0; i < f.travel.T; i++) {
    if (D && f.block && i % f.block == 0) project(f, part, i);
    if (f.travel.mask) pass_on(f, part, i);
    for (int p = part.panels.begin; p < part.panels.end; p++)
      for_tiles<HIGHEST>(part.rows, f.travel.mask_of(i), [&](const int* picked, int height) {
        step_tile(f, part.rows, i, picked, height, p);
      });
    if (split_units(f.travel.B, threads)) f.barrier.wait(threads);
  }
}

// How many floats of scratch memory a call needs.
extern "C" int64_t scratch(int64_t, int64_t B, int64_t block) {
  return (int64_t)PANELS * WIDTH * (N + D + 1 + block * B);
}

extern "C" XLA_FFI_Error* forward(XLA_FFI_CallFrame* frame) {
  if (answer_query(frame)) return nullptr;
  Buffer x = argument(frame, 0), initial = argument(frame, 6), streams = argument(frame, 7),
         mask = argument(frame, 8), resets = argument(frame, 9), states = result(frame, 0),
         memory = result(frame, 1), saved = result(frame, 3);
  const int64_t* option = options(frame);
  Forward f;
  f.travel = {(int)states.sizes[0], (int)states.sizes[1], option[0] != 0,
              mask.given ? mask.flags : nullptr, resets.given ? resets.flags : nullptr};
  f.block = (int)option[1];
  f.x = x.data;
  f.w_x = argument(frame, 1).data;
  f.b = argument(frame, 2).data;
  f.w_h = argument(frame, 3).data;
  f.vectors = argument(frame, 4).data;
  f.carry = argument(frame, 5).data;
  f.initial = initial.data;
  f.streams = streams.data;
  f.states = states.data;
  f.memory = memory.given ? memory.data : nullptr;
  f.last = result(frame, 2).data;
  f.saved = saved.given ? saved.data : nullptr;
  f.panels_h = result(frame, 4).data;
  f.panels_x = f.panels_h + (size_t)PANELS * N * WIDTH;
  f.panels_b = f.panels_x + (size_t)PANELS * D * WIDTH;
  f.projected = f.panels_b + (size_t)PANELS * WIDTH;
  want_huge_pages(states);
  want_huge_pages(memory);
  want_huge_pages(saved);
  run_parallel(run, f, PANELS);
  return nullptr;
}

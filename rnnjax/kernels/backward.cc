// The same loop backwards: from cotangents of what it returned to those of what it read.
//
// Step by step, the derivative of update gives du, the cotangents of the preactivations (and dr, of
// their recurrent part, where a gate reads the two apart), and dr W_hᵀ goes on to the step before.
// The cotangents of a block of steps stay in the cache, panel by panel of QUAD vectors, until the
// gradients of the weights have taken them up: dW_h += hᵀ dr, dW_x += xᵀ du, db += Σ du,
// dx = du W_xᵀ. Every entry is summed in the same order for any number of threads. Rows that are
// masked have no place in a block: the others move together.
//
// Of bfloat16 are the factors of all these products. du and dr are rounded once, where they are
// made, and db takes up what they were. Products over columns read them so; those over rows, which
// are the gradients of the weights, want two rows in a lane: a block is interleaved for them.

constexpr int QUAD = 4;
constexpr int COLUMNS = QUAD * LANES;
constexpr int VECTORS_OF_GATES = G * BLOCKS;
constexpr int QUADS = (VECTORS_OF_GATES + QUAD - 1) / QUAD;
constexpr int DEPTH = QUADS * COLUMNS;  // of the packed transposes: gates padded to vectors, vectors to QUAD
constexpr int WIDE_H = BLOCKS >= 4 ? 4 : BLOCKS >= 2 ? 2 : 1;
constexpr int PANELS_H = (BLOCKS + WIDE_H - 1) / WIDE_H;
constexpr int BLOCKS_X = (D + LANES - 1) / LANES;
constexpr int WIDE_X = BLOCKS_X >= 4 ? 4 : BLOCKS_X >= 2 ? 2 : 1;
constexpr int PANELS_X = (BLOCKS_X + WIDE_X - 1) / WIDE_X;
constexpr int NARROW = D > 0 && D <= 4;  // so few features that a vector of them would be mostly empty
constexpr int FIT_H = (REGISTERS - WIDE_H - 1) / WIDE_H;
constexpr int HIGHEST_H = FIT_H > 8 ? 8 : FIT_H;
constexpr int FIT_X = (REGISTERS - WIDE_X - 1) / WIDE_X;
constexpr int HIGHEST_X = FIT_X > 8 ? 8 : FIT_X;
constexpr int HIGHEST_W = (REGISTERS - QUAD - 1) / QUAD;

// What is summed up row by row: cotangents of vectors, and of biases where du is rounded.
constexpr int SUMS = VECTORS + (BFLOAT16 && D ? G : 0);

// Of the preactivations of a block, panel by panel; without gates apart dr is du.
struct Cotangents {
  factor *du, *dr;
};

struct Backward {
  Travel travel;
  int block;  // steps of a block
  int threads;
  const float *x, *w_x, *w_h, *vectors, *carry, *initial, *streams;
  const float *states, *memory, *saved, *d_states, *d_memory, *d_last;
  float *d_x, *d_w_x, *d_b, *d_w_h, *d_vectors, *d_carry, *d_initial, *d_streams;
  float *transposed_h, *transposed_x, *sums;
  int* places;     // (T, B), where rows are masked: the place of each row in its block
  float* kept[2];  // of a block, where rows are not read in place: hidden vectors and x
  Cotangents cotangents[2];  // of two blocks in turn, so that nobody waits until one is taken up
  float *pairs_h, *pairs_x, *pairs_du, *pairs_dr;  // of a block of bfloat16, two rows to a lane
  Barrier barrier;

  size_t plane() const { return (size_t)travel.B * N; }
  int block_rows() const { return block * travel.B; }
};

// A block: steps [begin, end) of the travel, and where their rows lie in time.
struct Block {
  int begin, end, first_time, rows;

  // The row of step i among those of the block.
  int row(const Travel& travel, int i, int b) const {
    return (travel.time(i) - first_time) * travel.B + b;
  }
};

// Where a block has the row that is so far from its first.
INLINE int place(const Backward& f, const Block& block, int row) {
  return f.travel.mask ? f.places[(size_t)block.first_time * f.travel.B + row] : row;
}

// How many rows of a block are not masked.
static int count_rows(const Backward& f, const Block& block) {
  if (!f.travel.mask) return block.rows;
  const bool* mask = f.travel.mask + (size_t)block.first_time * f.travel.B;
  return place(f, block, block.rows - 1) + mask[block.rows - 1];
}

static Block block_before(const Backward& f, int end) {
  int begin = end > f.block ? end - f.block : 0;
  int first_time = f.travel.reverse ? f.travel.T - end : begin;
  return {begin, end, first_time, (end - begin) * f.travel.B};
}

template <class Number>
INLINE Number* slot(const Backward& f, Number* buffer, int row, int v) {
  return buffer + ((size_t)(v / QUAD) * f.block_rows() + row) * COLUMNS + v % QUAD * LANES;
}

// An entry of a panel.
INLINE void put(float* panels, size_t k, int width, int column, float weight) {
  float* place = panels + (BFLOAT16 ? k / 2 : k) * width + column;
  if (!BFLOAT16) {
    *place = weight;
    return;
  }
  uint16_t half = round_to_halves(fill(weight))[0];
  std::memcpy((char*)place + k % 2 * sizeof(half), &half, sizeof(half));
}

// w (count, G·N) → panels of (depth(DEPTH), wide vectors), entry (k, j) of a panel being w[j, k].
static void pack_transposed(const float* w, int count, int wide, float* panels, Range which) {
  int width = wide * LANES;
  for (int p = which.begin; p < which.end; p++)
    for (int v = 0; v < QUADS * QUAD; v++)
      for (int column = 0; column < width; column++)
        for (int lane = 0; lane < LANES; lane++) {
          int j = p * width + column, k = v % BLOCKS * LANES + lane;
          bool inside = j < count && k < N && v < VECTORS_OF_GATES;
          put(panels, (size_t)p * DEPTH + v * LANES + lane, width, column,
              inside ? w[(size_t)j * GN + v / BLOCKS * N + k] : 0.f);
        }
}

// Of a row of states, a row of the hidden one or of the others of the carry.
INLINE const float* leaf(const float* hidden, const float* memory, size_t row, int k) {
  if (k == HIDDEN) return hidden ? hidden + row * N : nullptr;
  return memory ? memory + (row * (C - 1) + k - (k > HIDDEN)) * N : nullptr;
}

// The cotangent of the carry that a step leaves.
INLINE void arriving(const Backward& f, size_t row, int b, int j, vec* ct) {
  for (int k = 0; k < C; k++) {
    const float* d = leaf(f.d_states, f.d_memory, row, k);
    ct[k] = load_some<N>(f.d_carry + k * f.plane() + (size_t)b * N, j);
    if (d) ct[k] += load_some<N>(d, j);
  }
}

INLINE void leave(const Backward& f, int b, int j, const vec* d_c) {
  for (int k = 0; k < C; k++) store_some<N>(f.d_carry + k * f.plane() + (size_t)b * N, j, d_c[k]);
}

// A step that was masked: the cotangent passes on.
static void pass_back_units(const Backward& f, int i, int b, int j) {
  size_t row = f.travel.row(i, b);
  vec ct[C];
  arriving(f, row, b, j, ct);
  leave(f, b, j, ct);
  if (f.d_streams)
    for (int k = 0; k < STREAMS; k++)
      store_some<N>(f.d_streams + (row * STREAMS + k) * N, j, fill(0.f));
}

// The hidden vectors that the products of a block read lie in one place, but after resets elsewhere,
// and not side by side where rows between them are masked.
INLINE bool gathers(const Travel& travel) { return travel.mask || travel.resets; }

INLINE float* row_sum(const Backward& f, int b, int k, int j) {
  return f.sums + ((size_t)b * SUMS + k) * BLOCKS * LANES + j;
}

INLINE void add_to_sum(const Backward& f, int b, int k, int j, vec x) {
  float* sum = row_sum(f, b, k, j);
  store(sum, load(sum) + x);
}

// The derivative of one step of one row, for hidden units [j, j + LANES).
static void pull_back_units(const Backward& f, const Block& block, int i, int b, int j,
                            Cotangents d) {
  const Travel& travel = f.travel;
  size_t row = travel.row(i, b), past = travel.row(i - 1, b);
  bool reset = travel.reset(i, b);
  vec c[C], z[G], v[APARTS], s[STREAMS_], vectors[VECTORS_], ct[C];
  vec d_c[C], d_z[G], d_v[APARTS], d_s[STREAMS_], d_vectors[VECTORS_];
  const float* start = (reset ? f.initial : f.carry) + (size_t)b * N;
  for (int k = 0; k < C; k++)
    c[k] = load_some<N>(
        reset || i == 0 ? start + k * f.plane() : leaf(f.states, f.memory, past, k), j);
  const float* saved = f.saved + row * (G + APART_COUNT) * N;
  for (int g = 0; g < G; g++) z[g] = load_some<N>(saved + g * N, j);
  for (int k = 0; k < APART_COUNT; k++) v[k] = load_some<N>(saved + (G + k) * N, j);
  for (int k = 0; k < STREAMS; k++) s[k] = load_some<N>(f.streams + (row * STREAMS + k) * N, j);
  for (int k = 0; k < VECTORS; k++) vectors[k] = load_some<N>(f.vectors + k * N, j);
  arriving(f, row, b, j, ct);
  pull_back(c, z, v, s, vectors, ct, d_c, d_z, d_v, d_s, d_vectors);
  leave(f, b, j, d_c);

  int at = place(f, block, block.row(travel, i, b));
  for (int g = 0; g < G; g++) {
    int place = g * BLOCKS + j / LANES;
    vec of_r = zero_beyond<N>(d_z[g], j);
    vec of_u = APART[g] < 0 ? of_r : zero_beyond<N>(d_v[APART[g]], j);
    store_factors(slot(f, d.dr, at, place), of_r);
    if (APART_COUNT) store_factors(slot(f, d.du, at, place), of_u);
    if (BFLOAT16 && f.d_b) add_to_sum(f, b, VECTORS + g, j, of_u);
  }
  if (f.d_streams)
    for (int k = 0; k < STREAMS; k++) store_some<N>(f.d_streams + (row * STREAMS + k) * N, j, d_s[k]);
  if (f.d_vectors)
    for (int k = 0; k < VECTORS; k++) add_to_sum(f, b, k, j, d_vectors[k]);
  if (gathers(travel)) store_some<N>(f.kept[0] + (size_t)at * N, j, c[HIDDEN]);
}

// One step of some rows, for some hidden units.
static void pull_back_rows(const Backward& f, const Block& block, int i, Range rows, Range units,
                           Cotangents d) {
  for (int b = rows.begin; b < rows.end; b++) {
    bool masked = f.travel.masked(i, b);
    for (int j = units.begin; j < units.end; j += LANES)
      if (masked)
        pass_back_units(f, i, b, j);
      else
        pull_back_units(f, block, i, b, j, d);
    if (D && f.travel.mask && !masked && units.begin == 0) {
      int at = place(f, block, block.row(f.travel, i, b));
      std::memcpy(f.kept[1] + (size_t)at * D, f.x + f.travel.row(i, b) * D, D * sizeof(float));
    }
  }
}

// d_h += dr W_hᵀ, of some rows and one panel.
template <int ROWS>
static void recurrent_tile(const Backward& f, const factor* dr, int at, const int* picked, int p) {
  vec sums[WIDE_H][ROWS] = {};
  for (int q = 0; q < QUADS; q++) {
    const factor* rows[ROWS];
    for (int r = 0; r < ROWS; r++)
      rows[r] = dr + ((size_t)q * f.block_rows() + at + r) * COLUMNS;
    size_t before = depth((size_t)p * DEPTH + q * COLUMNS);
    multiply_factors<COLUMNS>(rows, f.transposed_h + before * WIDE_H * LANES, sums);
  }
  for (int r = 0; r < ROWS; r++)
    for (int v = 0; v < WIDE_H; v++) {
      int j = (p * WIDE_H + v) * LANES;
      float* d_h = f.d_carry + HIDDEN * f.plane() + (size_t)picked[r] * N;
      if (j < N) store_some<N>(d_h, j, load_some<N>(d_h, j) + sums[v][r]);
    }
}

// Where the carry was replaced, its cotangents are those of the initial carry.
static void leave_resets(const Backward& f, int i, Range rows, Range units) {
  size_t bytes = sizeof(float) * (units.end - units.begin);
  for (int b = rows.begin; b < rows.end; b++) {
    if (!f.travel.reset(i, b)) continue;
    for (int k = 0; k < C; k++) {
      size_t at = k * f.plane() + (size_t)b * N;
      if (f.d_initial)
        for (int j = units.begin; j < units.end; j++) f.d_initial[at + j] += f.d_carry[at + j];
      std::memset(f.d_carry + at + units.begin, 0, bytes);
    }
  }
}

// Rows of a matrix in two places, one after the other.
struct Rows {
  const float* first;
  int first_count;
  const float* second;
  int second_count;

  // Row k of a matrix so wide; none behind the last.
  const float* row(int k, int width) const {
    if (k < first_count) return first + (size_t)k * width;
    k -= first_count;
    return k < second_count ? second + (size_t)k * width : nullptr;
  }
};

// Some rows of a weight's gradient, and QUAD vectors of its columns: += aᵀ du of a whole block, of
// bfloat16 a pair of rows at a time.
template <int ROWS>
static void weight_tile(Rows a, int width, const float* du, int row, int q, float* out, bool begin) {
  vec sums[QUAD][ROWS];
  UNROLL for (int s = 0; s < QUAD; s++) {
    int v = q * QUAD + s, j = v % BLOCKS * LANES;
    UNROLL for (int r = 0; r < ROWS; r++) {
      const float* gate = out + (size_t)(row + r) * GN + v / BLOCKS * N;
      sums[s][r] = begin || v >= VECTORS_OF_GATES ? fill(0.f) : load_some<N>(gate, j);
    }
  }
  for (int half = 0; half < 2; half++) {
    const float* from = (half ? a.second : a.first) + row;
    int count = half ? a.second_count : a.first_count;
    const float* columns = du + (half ? (size_t)a.first_count * COLUMNS : 0);
    for (int k = 0; k < count; k++) {
      vec w[QUAD];
      UNROLL for (int s = 0; s < QUAD; s++) w[s] = load(columns + (size_t)k * COLUMNS + s * LANES);
      UNROLL for (int r = 0; r < ROWS; r++) {
        vec x = fill_factor(from, (size_t)k * width + r);
        UNROLL for (int s = 0; s < QUAD; s++) sums[s][r] = add_product(sums[s][r], w[s], x);
      }
    }
  }
  UNROLL for (int s = 0; s < QUAD; s++) {
    int v = q * QUAD + s, j = v % BLOCKS * LANES;
    if (v >= VECTORS_OF_GATES) break;
    UNROLL for (int r = 0; r < ROWS; r++)
        store_some<N>(out + (size_t)(row + r) * GN + v / BLOCKS * N, j, sums[s][r]);
  }
}

static void add_weights(const Backward& f, Rows a, int width, const float* du, Range own, float* out,
                        bool begin) {
  for (int q = 0; q < QUADS; q++)
    for_tiles<HIGHEST_W>(own, nullptr, [&](const int* picked, int height) {
      const float* columns = du + (size_t)q * depth(f.block_rows()) * COLUMNS;
      with_height<HIGHEST_W>(height, [&]<int ROWS>() {
        weight_tile<ROWS>(a, width, columns, picked[0], q, out, begin);
      });
    });
}

static void add_bias(const Backward& f, const factor* du, int count, Range own, bool begin) {
  for (int v = own.begin; v < own.end; v++) {
    int j = v % BLOCKS * LANES;
    float* gate = f.d_b + v / BLOCKS * N;
    vec total = begin ? fill(0.f) : load_some<N>(gate, j);
    for (int row = 0; row < count; row++) total += load_factors(slot(f, du, row, v));
    store_some<N>(gate, j, total);
  }
}

// dx = du W_xᵀ of some rows of a block and one panel of features.
template <int ROWS>
static void input_tile(const Backward& f, const factor* du, int at, const int* picked, int p,
                       float* out) {
  vec sums[WIDE_X][ROWS] = {};
  for (int q = 0; q < QUADS; q++) {
    const factor* rows[ROWS];
    for (int r = 0; r < ROWS; r++)
      rows[r] = du + ((size_t)q * f.block_rows() + at + r) * COLUMNS;
    size_t before = depth((size_t)p * DEPTH + q * COLUMNS);
    multiply_factors<COLUMNS>(rows, f.transposed_x + before * WIDE_X * LANES, sums);
  }
  for (int r = 0; r < ROWS; r++)
    for (int v = 0; v < WIDE_X; v++) {
      int j = (p * WIDE_X + v) * LANES;
      if (j < D) store_some<D ? D : 1>(out + (size_t)picked[r] * D, j, sums[v][r]);
    }
}

static void narrow_input(const Backward& f, const factor* du, int at, float* out) {
  for (int d = 0; d < D; d++) {
    vec total[2] = {};
    for (int v = 0; v < VECTORS_OF_GATES; v++) {
      const float* gate = f.w_x + (size_t)d * GN + v / BLOCKS * N;
      vec w = as_factors(load_some<N>(gate, v % BLOCKS * LANES));
      total[v % 2] += load_factors(slot(f, du, at, v)) * w;
    }
    out[d] = sum(total[0] + total[1]);
  }
}

// dx of some rows of a block; zeros where they are masked.
static void input_gradients(const Backward& f, const Block& block, Cotangents d, Range own) {
  size_t first = (size_t)block.first_time * f.travel.B;
  const bool* mask = f.travel.mask ? f.travel.mask + first : nullptr;
  float* out = f.d_x + first * D;
  for (int row = own.begin; row < own.end; row++)
    if (mask && !mask[row])
      std::memset(out + (size_t)row * D, 0, D * sizeof(float));
    else if (NARROW)
      narrow_input(f, d.du, place(f, block, row), out + (size_t)row * D);
  if (NARROW) return;
  for (int p = 0; p < PANELS_X; p++)
    for_tiles<HIGHEST_X>(own, mask, [&](const int* picked, int height) {
      int at = place(f, block, picked[0]);
      with_height<HIGHEST_X>(height,
                             [&]<int ROWS>() { input_tile<ROWS>(f, d.du, at, picked, p, out); });
    });
}

// The hidden vectors that the products of a block read, in the order of its rows.
static Rows hidden_rows(const Backward& f, const Block& block) {
  const Travel& travel = f.travel;
  int rows = block.rows, border = block.begin == 0 ? travel.B : 0;
  const float* carry = f.carry + HIDDEN * f.plane();
  if (gathers(travel)) return {f.kept[0], count_rows(f, block), f.kept[0], 0};
  if (travel.reverse)
    return {f.states + (size_t)(block.first_time + 1) * f.plane(), rows - border, carry, border};
  int past = block.first_time - (border == 0);
  return {carry, border, f.states + (size_t)past * f.plane(), rows - border};
}

// The inputs likewise.
static Rows input_rows(const Backward& f, const Block& block) {
  const float* x = f.travel.mask ? f.kept[1] : f.x + (size_t)block.first_time * f.travel.B * D;
  return {x, count_rows(f, block), x, 0};
}

#if BFLOAT16
// Rows 2k and 2k + 1 → row k, entry by entry; behind an odd number of rows stand zeros.
template <int WIDTH>
static void pair_rows(Rows a, float* pairs, Range own) {
  for (int k = own.begin; k < own.end; k++) {
    const float *first = a.row(2 * k, WIDTH), *second = a.row(2 * k + 1, WIDTH);
    for (int j = 0; j < WIDTH; j += LANES) {
      vec other = second ? load_some<WIDTH>(second, j) : fill(0.f);
      store_some<WIDTH>(pairs + (size_t)k * WIDTH, j, pair(load_some<WIDTH>(first, j), other));
    }
  }
}

// The same of rows that are rounded, panel by panel.
static void pair_panels(const Backward& f, const factor* panels, int rows, float* pairs,
                        Range own) {
  for (int q = 0; q < QUADS; q++)
    for (int k = own.begin; k < own.end; k++)
      for (int s = 0; s < QUAD; s++) {
        halves two[2] = {};
        for (int r = 0; r < 2 && 2 * k + r < rows; r++)
          std::memcpy(two + r, slot(f, panels, 2 * k + r, q * QUAD + s), sizeof(halves));
        size_t row = q * depth(f.block_rows()) + k;
        store(pairs + row * COLUMNS + s * LANES, interleave(two[0], two[1]));
      }
}

static void pair_factors(const Backward& f, const Block& block, Cotangents d, int thread) {
  int rows = count_rows(f, block);
  Range own = share(depth(rows), thread, f.threads);
  if (f.d_w_h) pair_rows<N>(hidden_rows(f, block), f.pairs_h, own);
  if (f.d_w_x) pair_rows<D ? D : 1>(input_rows(f, block), f.pairs_x, own);
  if (f.d_w_x) pair_panels(f, d.du, rows, f.pairs_du, own);
  if (f.d_w_h && (APART_COUNT || !f.d_w_x)) pair_panels(f, d.dr, rows, f.pairs_dr, own);
}
#endif

// The factors of the weights' gradients, of bfloat16 in pairs of rows.
struct Factors {
  Rows h, x;
  const float *dr, *du;
};

static Factors factors(const Backward& f, const Block& block, Cotangents d) {
#if BFLOAT16
  int pairs = depth(count_rows(f, block));
  Rows h = {f.pairs_h, pairs, f.pairs_h, 0}, x = {f.pairs_x, pairs, f.pairs_x, 0};
  return {h, x, f.pairs_dr, f.pairs_du};
#else
  return {hidden_rows(f, block), input_rows(f, block), d.dr, d.du};
#endif
}

static void gradients(const Backward& f, const Block& block, Cotangents d, int thread, bool begin) {
  int rows = count_rows(f, block), threads = f.threads;
  Factors of = factors(f, block, d);
  if (f.d_w_h) add_weights(f, of.h, N, of.dr, share(N, thread, threads), f.d_w_h, begin);
  if (!D) return;
  if (f.d_w_x) add_weights(f, of.x, D, of.du, share(D, thread, threads), f.d_w_x, begin);
  if (f.d_b && !BFLOAT16) add_bias(f, d.du, rows, share(VECTORS_OF_GATES, thread, threads), begin);
  if (f.d_x) input_gradients(f, block, d, share(block.rows, thread, threads));
}

// The k-th vector that was summed up row by row, of all rows.
static void add_sums(const Backward& f, int k, float* out, Range own) {
  for (int block = own.begin; block < own.end; block++) {
    vec total = fill(0.f);
    for (int b = 0; b < f.travel.B; b++) total += load(row_sum(f, b, k, block * LANES));
    store_some<N>(out, block * LANES, total);
  }
}

// The place of each row that is not masked, counted from the first of its block.
static void find_places(const Backward& f) {
  for (int end = f.travel.T; end > 0; end -= f.block) {
    Block block = block_before(f, end);
    size_t first = (size_t)block.first_time * f.travel.B;
    int next = 0;
    for (int row = 0; row < block.rows; row++) {
      f.places[first + row] = next;
      next += f.travel.mask[first + row];
    }
  }
}

static void prepare(Backward& f, int thread) {
  int threads = f.threads;
  pack_transposed(f.w_h, N, WIDE_H, f.transposed_h, share(PANELS_H, thread, threads));
  if (f.d_x && !NARROW)
    pack_transposed(f.w_x, D, WIDE_X, f.transposed_x, share(PANELS_X, thread, threads));
  if (thread) return;
  if (f.travel.mask) find_places(f);
  size_t carry = C * f.plane() * sizeof(float);
  if (f.d_last)
    std::memcpy(f.d_carry, f.d_last, carry);
  else
    std::memset(f.d_carry, 0, carry);
  if (f.d_initial) std::memset(f.d_initial, 0, carry);
  if (f.sums)
    std::memset(f.sums, 0, sizeof(float) * f.travel.B * SUMS * BLOCKS * LANES);
  // What no gate fills of the last QUAD is read by the products.
  for (int v = VECTORS_OF_GATES; v < QUADS * QUAD; v++)
    for (int row = 0; row < f.block_rows(); row++)
      for (const Cotangents& d : f.cotangents)
        for (factor* buffer : {d.du, d.dr}) store_factors(slot(f, buffer, row, v), fill(0.f));
}

static void run(int thread, int threads, void* context) {
  Backward& f = *(Backward*)context;
  const Travel& travel = f.travel;
  bool by_units = split_units(travel.B, threads);
  if (thread == 0) f.threads = threads;
  f.barrier.wait(threads);
  prepare(f, thread);
  f.barrier.wait(threads);
  Range rows = {0, travel.B}, panels = {0, PANELS_H};
  (by_units ? panels : rows) = share(by_units ? PANELS_H : travel.B, thread, threads);
  Range units = {panels.begin * WIDE_H * LANES, panels.end * WIDE_H * LANES};
  if (units.begin > N) units.begin = N;
  if (units.end > N) units.end = N;

  int turn = 0;
  for (int end = travel.T; end > 0; end -= f.block, turn++) {
    Block block = block_before(f, end);
    Cotangents d = f.cotangents[turn % 2];
    for (int i = end - 1; i >= block.begin; i--) {
      pull_back_rows(f, block, i, rows, units, d);
      if (by_units) f.barrier.wait(threads);
      for (int p = panels.begin; p < panels.end; p++)
        for_tiles<HIGHEST_H>(rows, travel.mask_of(i), [&](const int* picked, int height) {
          int at = place(f, block, block.row(travel, i, picked[0]));
          with_height<HIGHEST_H>(height, [&]<int ROWS>() {
            recurrent_tile<ROWS>(f, d.dr, at, picked, p);
          });
        });
      if (travel.resets) leave_resets(f, i, rows, units);
    }
    f.barrier.wait(threads);
#if BFLOAT16
    pair_factors(f, block, d, thread);
    f.barrier.wait(threads);
#endif
    gradients(f, block, d, thread, turn == 0);
    // What is kept of a block has no second buffer. Once it is paired nobody reads it.
    if (gathers(travel) && !BFLOAT16) f.barrier.wait(threads);
  }
  Range own = share(BLOCKS, thread, threads);
  for (int k = 0; f.d_vectors && k < VECTORS; k++) add_sums(f, k, f.d_vectors + k * N, own);
  for (int g = 0; f.d_b && VECTORS + g < SUMS; g++) add_sums(f, VECTORS + g, f.d_b + g * N, own);
}

// How many floats of scratch memory a call needs.
extern "C" int64_t scratch(int64_t T, int64_t B, int64_t block) {
  int64_t rows = block * B, kinds = APART_COUNT ? 2 : 1;
  int64_t pairs = BFLOAT16 ? depth(rows) * (kinds * DEPTH + N + D) : 0;
  return (int64_t)DEPTH * LANES * (PANELS_H * WIDE_H + PANELS_X * WIDE_X) +
         2 * kinds * depth(rows * DEPTH) + pairs + rows * (N + D) + T * B +
         B * SUMS * BLOCKS * LANES;
}

extern "C" XLA_FFI_Error* backward(XLA_FFI_CallFrame* frame) {
  if (answer_query(frame)) return nullptr;
  Backward f;
  auto read = [&](int k) -> const float* {
    Buffer b = argument(frame, k);
    return b.given ? b.data : nullptr;
  };
  auto wanted = [&](int k) -> float* {
    Buffer b = result(frame, k);
    want_huge_pages(b);
    return b.given ? b.data : nullptr;
  };
  Buffer states = argument(frame, 9), mask = argument(frame, 7), resets = argument(frame, 8);
  const int64_t* option = options(frame);
  f.travel = {(int)states.sizes[0], (int)states.sizes[1], option[0] != 0,
              mask.given ? mask.flags : nullptr, resets.given ? resets.flags : nullptr};
  f.block = (int)option[1];
  f.x = read(0);
  f.w_x = read(1);
  f.w_h = read(2);
  f.vectors = read(3);
  f.carry = read(4);
  f.initial = read(5);
  f.streams = read(6);
  f.states = states.data;
  f.memory = read(10);
  f.saved = read(11);
  f.d_states = read(12);
  f.d_memory = read(13);
  f.d_last = read(14);
  f.d_x = wanted(0);
  f.d_w_x = wanted(1);
  f.d_b = wanted(2);
  f.d_w_h = wanted(3);
  f.d_vectors = wanted(4);
  f.d_carry = wanted(5);
  f.d_initial = wanted(6);
  f.d_streams = wanted(7);
  float* rest = result(frame, 8).data;
  auto take = [&](size_t count) { return std::exchange(rest, rest + count); };
  size_t block = (size_t)f.block_rows() * DEPTH;
  f.transposed_h = take((size_t)PANELS_H * DEPTH * WIDE_H * LANES);
  f.transposed_x = take((size_t)PANELS_X * DEPTH * WIDE_X * LANES);
  for (Cotangents& d : f.cotangents) {
    d.du = (factor*)take(depth(block));
    d.dr = APART_COUNT ? (factor*)take(depth(block)) : d.du;
  }
  f.kept[0] = take((size_t)f.block_rows() * N);
  f.kept[1] = take((size_t)f.block_rows() * D);
  if (BFLOAT16) {
    size_t pairs = depth(f.block_rows());
    f.pairs_du = take(pairs * DEPTH);
    f.pairs_dr = APART_COUNT ? take(pairs * DEPTH) : f.pairs_du;
    f.pairs_h = take(pairs * N);
    f.pairs_x = take(pairs * D);
  }
  f.places = (int*)take((size_t)f.travel.T * f.travel.B);
  f.sums = SUMS ? rest : nullptr;
  run_parallel(run, f, PANELS_H);
  return nullptr;
}

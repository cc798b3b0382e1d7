// Event-driven convolution with max pooling, on the CPU.
//
// An event adds its weights to the currents in its reach. A sample's currents stay channels-last in the cache until they are
// pooled. With few input channels the events are added one after the other (`scatter`). With many, a few neighbouring currents
// stay in registers while all their events are added (`gather`). The order in which a current's inputs are added depends on the
// sizes only, not on the batch or on zeros, so the bits of a row depend on nothing else.
#pragma once

struct Sizes {
  long channels, height, width, outputs, kernel, stride, padding, pool;
};

// The sizes and the numbers that follow from them, computed once, because a division in a loop costs more than an event.
struct Geometry : Sizes {
  const long inputs, rows, columns, blocks;  // rows, columns and number of pooled blocks
  const long lanes;
  const long pixel;               // floats per position in maps and patches: the channels, or more
  const long patch_line, patch;   // floats of the input under one row of the kernel, channels-last, padded; under all rows
  const long map_row, map;        // floats of a row of the padded input, and of all; vectors of a patch's row may reach beyond

  // least: minimum floats per pixel
  explicit Geometry(const Sizes &sizes, long least = 0)
      : Sizes(sizes), inputs(channels * height * width), rows(((height + 2 * padding - kernel) / stride + 1) / pool),
        columns(((width + 2 * padding - kernel) / stride + 1) / pool), blocks(rows * columns), lanes(PADDED_TO(outputs, WIDTH)),
        pixel(MORE(least, channels)), patch_line(PADDED_TO(kernel * pixel, WIDTH)), patch(kernel * patch_line),
        map_row((width + 2 * padding) * pixel), map((height + 2 * padding) * map_row + WIDTH) {}

  // start of a patch in a padded map, with the kernel at (row, column)
  long corner(long row, long column) const { return row * stride * map_row + column * stride * pixel; }
  long place_of(long input) const {
    const long channel = input / (height * width), row = input / width % height, column = input % width;
    return (row + padding) * map_row + (column + padding) * pixel + channel;
  }
};

// Transposes: to [columns, `line` floats apart] = from [rows, `stride` floats apart].
static void transpose(const float *from, long stride, long rows, long columns, float *to, long line) {
  for (long c = 0; c < columns; c++)
    for (long r = 0; r < rows; r++) to[c * line + r] = from[r * stride + c];
}

// Prefetches memory that will soon be written, or read.
INLINE void fetch(float *to, long count) {
  for (long i = 0; i < count; i += 16) __builtin_prefetch(to + i, 1);
}
INLINE void fetch(const float *from, long count) {
  for (long i = 0; i < count; i += 16) __builtin_prefetch(from + i);
}

INLINE long events_of_row(const float *x, Word *bits, long inputs, int *index) {
  return x ? events_of(x, inputs, index, bits) : events_of_bits(bits, inputs, index);
}

// Weights in the layout that events read: [channels, kernel rows, kernel columns from right to left, lanes]. Null if memory runs
// out.
static float *weights_by_input(const Geometry &g, const float *w, Memory &memory) {
  const long size = g.kernel, taps = g.channels * size * size;
  float *found = memory.take<float>(taps * g.lanes);
  if (!found) return nullptr;
  memset(found, 0, sizeof(float) * taps * g.lanes);
  for (long n = 0; n < g.outputs; n++)
    for (long tap = 0; tap < taps; tap++)
      found[(tap / size * size + size - 1 - tap % size) * g.lanes + n] = w[n * taps + tap];
  return found;
}

// y [rows, NV vectors] += value w; each row is `line` floats further in y and `turn` floats back in w
template <int NV>
static void add_rows_of(const float *w, F value, float *y, long rows, long line, long turn) {
  for (long r = 0; r < rows; r++, y += line, w -= turn)
    for (int v = 0; v < NV; v++) store(y + v * WIDTH, multiply_add(value, load(w + v * WIDTH), load(y + v * WIDTH)));
}

static void add_runs(const float *w, F value, float *y, long rows, long line, long turn, long vectors) {
  for (; vectors > 10; vectors -= 10, w += 10 * WIDTH, y += 10 * WIDTH) add_rows_of<10>(w, value, y, rows, line, turn);
  switch (vectors) {
#define CASE(n) case n: return add_rows_of<n>(w, value, y, rows, line, turn);
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10)
#undef CASE
  }
}

// The reach of an input: `columns` x `rows` currents [lanes] from offset `current` on, with the weights from offset `weight` on.
struct Reach {
  int weight, current;
  short rows, columns;
};

static Reach reach_of(const Geometry &g, long input) {
  const long channel = input / (g.height * g.width), width = g.columns * g.pool, behind = g.kernel - g.stride;
  const long row = input / g.width % g.height + g.padding, column = input % g.width + g.padding;
  const long left = MORE(0, (column - behind) / g.stride), right = LESS(width - 1, column / g.stride);
  const long top = MORE(0, (row - behind) / g.stride), bottom = LESS(g.rows * g.pool - 1, row / g.stride);
  const long tap = (channel * g.kernel + row - top * g.stride) * g.kernel + g.kernel - 1 - (column - left * g.stride);
  Reach found = {(int)(tap * g.lanes), (int)((top * width + left) * g.lanes), (short)MORE(0, bottom - top + 1),
                 (short)MORE(0, right - left + 1)};
  return found;
}

// Adds one event to the currents; with stride 1 all columns in its reach are one run.
static void add_event(const Geometry &g, const float *w, const Reach &reach, float value, float *current) {
  const long lanes = g.lanes, line = g.columns * g.pool * lanes, turn = g.stride * g.kernel * lanes;
  const long run = g.stride == 1 ? reach.columns : 1;
  for (long c = 0; c < reach.columns; c += run)
    add_runs(w + reach.weight + c * g.stride * lanes, LANE(value), current + reach.current + c * lanes, reach.rows, line, turn,
             run * lanes / WIDTH);
}

// Computes the currents [rows pool, columns pool, lanes] of a sample, event by event. x: null if all events are 1.
static void scatter(const Geometry &g, const float *x, const int *index, long count, const float *w, const Reach *reach,
                    const float *start, float *current) {
  const long lanes = g.lanes, line = g.columns * g.pool * lanes;
  for (long p = 0; p < line; p += lanes) memcpy(current + p, start, sizeof(float) * lanes);
  for (long r = 1; r < g.rows * g.pool; r++) memcpy(current + r * line, current, sizeof(float) * line);
  for (long e = 0; e < count; e++) add_event(g, w, reach[index[e]], x ? x[index[e]] : 1.0f, current);
}

// An input as rows of currents read it. `place`: its index in the padded map, columns first. `weight`: offset of its weights for
// the kernel's last column, with the kernel in row 0.
struct Spot {
  int place, weight;
};

static Spot spot_of(const Geometry &g, long input) {
  const long channel = input / (g.height * g.width), height = g.height + 2 * g.padding;
  const long row = input / g.width % g.height + g.padding, column = input % g.width + g.padding;
  return {(int)(column * height + row), (int)((channel * g.kernel + row) * g.kernel * g.lanes)};
}

struct Event {
  int weight;
  float value;
};

// A sample's events sorted by columns, then rows, then channels. The events of a place are `first[place]` up to
// `first[place + 1]`.
struct Columns : Memory {
  const Spot *spots;
  const long height, places;
  Event *events;
  int *first;

  Columns(const Geometry &g, const Spot *of)
      : spots(of), height(g.height + 2 * g.padding), places(height * (g.width + 2 * g.padding)), events(take<Event>(g.inputs)),
        first(take<int>(places + 2)) {}

  // x: null if all events are 1
  void sort(const float *x, const int *index, long count) {
    memset(first, 0, sizeof(int) * (places + 2));
    for (long e = 0; e < count; e++) first[spots[index[e]].place + 2]++;
    for (long p = 2; p < places + 2; p++) first[p] += first[p - 1];
    for (long e = 0; e < count; e++) {
      const Spot spot = spots[index[e]];
      events[first[spot.place + 1]++] = {spot.weight, x ? x[index[e]] : 1.0f};
    }
  }
};

// sum [P, NV vectors], the currents of P neighbours, += the events of the columns under the kernel from column X on, K rows each
template <int P, int K, int NV, int X = 0>
INLINE void add_columns(const Event *events, const int *first, long height, const float *w, long lanes, F *sum) {
  constexpr int low = X >= K ? X - K + 1 : 0, high = X < P ? X : P - 1;
  for (const Event *event = events + first[0], *end = events + first[K]; event != end; event++) {
    const float *weight = w + event->weight;
    const F value = LANE(event->value);
#pragma GCC unroll 16
    for (int i = low * NV; i < (high + 1) * NV; i++)
      sum[i] = multiply_add(value, load(weight + (i / NV - X + K - 1) * lanes + i % NV * WIDTH), sum[i]);
  }
  if constexpr (X + 1 < P + K - 1) add_columns<P, K, NV, X + 1>(events, first + height, height, w, lanes, sum);
}

// Computes the currents of P neighbours of a row in registers, NV vectors of their lanes.
template <int P, int K, int NV>
static void gather_tile(const Event *events, const int *first, long height, const float *w, const float *start, long lanes,
                        float *current) {
  F sum[P * NV];
#pragma GCC unroll 32
  for (int i = 0; i < P * NV; i++) sum[i] = load(start + i % NV * WIDTH);
  add_columns<P, K, NV>(events, first, height, w, lanes, sum);
#pragma GCC unroll 32
  for (int i = 0; i < P * NV; i++) store(current + i / NV * lanes + i % NV * WIDTH, sum[i]);
}

#define WIDE (WIDTH == 16 ? 2 * WIDTH : WIDTH)  // number of lanes with which ten neighbours fit the registers
// Computes the same currents as `scatter`, tile by tile; the last tile of a row overlaps its neighbour.
template <int P, int K>
static void gather(const Geometry &g, const Columns &sample, const float *w, const float *start, float *current) {
  const long lanes = g.lanes, line = g.columns * g.pool, height = sample.height;
  for (long v = 0, wide; v < lanes; v += wide) {
    wide = LESS(WIDE, lanes - v);
    const auto tile = wide == WIDTH ? gather_tile<P, K, 1> : gather_tile<P, K, WIDE / WIDTH>;
    for (long r = 0; r < g.rows * g.pool; r++)
      for (long c = 0; c < line; c += P) {
        const long at = LESS(c, line - P);
        tile(sample.events, sample.first + at * height + r, height, w + v - r * g.kernel * lanes, start + v, lanes,
             current + (r * line + at) * lanes + v);
      }
  }
}

// The `gather` for these sizes; null if `scatter` is the one to use: with a stride above 1, few channels, or another kernel size.
static auto gather_of(const Geometry &g) {
  decltype(&gather<5, 5>) none = nullptr;
  const long line = g.columns * g.pool;
  if (g.stride > 1 || g.channels < 8 || line < 5) return none;
  if (g.kernel == 5) return line < 10 ? gather<5, 5> : gather<10, 5>;
  if (g.kernel == 3) return line < 10 ? gather<5, 3> : gather<10, 3>;
  return none;
}

// Finds the largest current of every block, [blocks, lanes], and its index within the block; of equal ones the first, as in torch.
// POOL: the side of a block, 0 if it is not known at compile time.
template <int POOL>
static void pool_blocks(const Geometry &g, const float *current, float *largest, uint8_t *where) {
  typedef uint8_t Bytes __attribute__((vector_size(WIDTH)));
  const long lanes = g.lanes, pool = POOL ? POOL : g.pool, line = g.columns * pool * lanes;
  for (long r = 0; r < g.rows; r++)
    for (long c = 0; c < g.columns; c++)
      for (long v = 0; v < lanes; v += WIDTH) {
        const float *block = current + r * pool * line + c * pool * lanes + v;
        F best = load(block);
        M at = {};
        for (long i = 0; i < pool; i++)
          for (long j = 0; j < pool; j++) {
            const F value = load(block + i * line + j * lanes);
            const M better = (value > best) | (value != value);
            best = lane_select(better, value, best);
            at = better ? M{} + (int)(i * pool + j) : at;
          }
        const long b = r * g.columns + c;
        const Bytes bytes = __builtin_convertvector(at, Bytes);
        store(largest + b * lanes + v, best);
        if (b * g.outputs + v + WIDTH <= g.blocks * g.outputs) memcpy(where + b * g.outputs + v, &bytes, WIDTH);
        else memcpy(where + b * g.outputs + v, &bytes, LESS(WIDTH, g.outputs - v));  // a whole vector would overwrite the next block's
      }
}

// y [rows, outputs, blocks]; `where` [rows, blocks, outputs], or null; `bits` and a null x as in `linear_rows`. Returns nonzero if
// memory runs out.
extern "C" int spiky_convolution(const Sizes *sizes, const float *x, Word *bits, const float *weight, const float *bias,
                                 float *y, uint8_t *where, long rows, int threads) {
  const Geometry g(*sizes);
  const long inputs = g.inputs, lanes = g.lanes, blocks = g.blocks, places = blocks * g.pool * g.pool;
  const auto gather = gather_of(g);
  Memory shared;
  const float *w = weights_by_input(g, weight, shared);
  Reach *reach = shared.take<Reach>(gather ? 0 : inputs);
  Spot *spots = shared.take<Spot>(gather ? inputs : 0);
  if (shared.missing) return 1;
  for (long i = 0; i < inputs; i++)
    if (gather) spots[i] = spot_of(g, i);
    else reach[i] = reach_of(g, i);
  int failed = 0;
#pragma omp parallel if (threads > 1) num_threads(threads) reduction(| : failed)
  {
    Memory own;
    Columns sample(g, spots);
    int *index = own.take<int>(inputs + SLACK);
    float *current = own.take<float>(places * lanes), *largest = own.take<float>(blocks * lanes);
    float *start = own.take<float>(lanes);
    uint8_t *unused = own.take<uint8_t>(blocks * g.outputs);
    const bool missing = own.missing || sample.missing;
    failed |= missing;
    if (!missing) {
      memset(start, 0, sizeof(float) * lanes);
      memcpy(start, bias, sizeof(float) * g.outputs);
    }
#pragma omp for
    for (long r = 0; r < rows; r++) {
      if (missing) continue;
      const float *row = x ? x + r * inputs : nullptr;
      const long count = events_of_row(row, bits ? bits + r * WORDS(inputs) : nullptr, inputs, index);
      fetch(y + r * g.outputs * blocks, g.outputs * blocks);
      if (x) fetch(x + (r + 1) * inputs, inputs);
      if (gather) {
        sample.sort(row, index, count);
        gather(g, sample, w, start, current);
      } else {
        scatter(g, row, index, count, w, reach, start, current);
      }
      (g.pool == 2 ? pool_blocks<2> : pool_blocks<0>)(g, current, largest, where ? where + r * blocks * g.outputs : unused);
      transpose(largest, lanes, blocks, g.outputs, y + r * g.outputs * blocks, blocks);
    }
  }
  return failed;
}


// Event-driven convolution whose currents are pooled by their maximum, on the CPU.
//
// Forward: an event adds its weights to the currents that it reaches; a sample's currents lie channels-last in the cache
// until they are pooled. Backward: all gradient of a block of currents belongs to its largest one, so both products are as
// sparse as pooling makes them. A current's inputs are added in ascending order, whatever the batch and the zeros: a row's
// bits depend on nothing else, and a sum's parts are those of one sample each, whatever the number of threads.
#pragma once

#define PADDED_TO(n, to) (((n) + (to) - 1) / (to) * (to))
#define LESS(a, b) ((a) < (b) ? (a) : (b))
#define MORE(a, b) ((a) > (b) ? (a) : (b))

struct Geometry {
  long channels, height, width, outputs, kernel, stride, padding, pool;

  long inputs() const { return channels * height * width; }
  long rows() const { return ((height + 2 * padding - kernel) / stride + 1) / pool; }  // of pooled blocks
  long columns() const { return ((width + 2 * padding - kernel) / stride + 1) / pool; }
  long blocks() const { return rows() * columns(); }
  long lanes() const { return PADDED_TO(outputs, WIDTH); }
  long patch_row() const { return kernel * channels; }  // inputs that one row of the kernel sees, channels-last
  long patch_line() const { return PADDED_TO(patch_row(), WIDTH); }
  long patch() const { return kernel * patch_line(); }
  long map_row() const { return (width + 2 * padding) * channels; }
  long map() const { return (height + 2 * padding) * map_row() + WIDTH; }  // vectors of a patch's row may reach beyond
  // where the patch of place (row, column) of the kernel begins in a padded map
  long corner(long row, long column) const { return row * stride * map_row() + column * stride * channels; }
  long place_of(long input) const {
    const long channel = input / (height * width), row = input / width % height, column = input % width;
    return (row + padding) * map_row() + (column + padding) * channels + channel;
  }
};

// Pieces of memory that are given back together.
struct Memory {
  void *pieces[8];
  int count = 0;
  bool missing = false;  // a piece was refused

  Memory() = default;
  Memory(const Memory &) = delete;
  ~Memory() {
    while (count) free(pieces[--count]);
  }
  template <typename T> T *take(long size) {
    void *piece = aligned_alloc(64, PADDED_TO(sizeof(T) * MORE(size, 1), 64));
    missing |= !piece;
    return (T *)(pieces[count++] = piece);
  }
};

INLINE long events_of_row(const float *x, Word *bits, long inputs, int *index) {
  return x ? events_of(x, inputs, index, bits) : events_of_bits(bits, inputs, index);
}

// Weights as events read them: [channels, kernel rows, kernel columns from right to left, lanes]. Null: no memory.
static float *weights_by_input(const Geometry &g, const float *w, Memory &memory) {
  const long size = g.kernel, taps = g.channels * size * size;
  float *found = memory.take<float>(taps * g.lanes());
  if (!found) return nullptr;
  memset(found, 0, sizeof(float) * taps * g.lanes());
  for (long n = 0; n < g.outputs; n++)
    for (long tap = 0; tap < taps; tap++)
      found[(tap / size * size + size - 1 - tap % size) * g.lanes() + n] = w[n * taps + tap];
  return found;
}

// Weights as gradients read them: [outputs, patch], a patch being [kernel rows, kernel columns, channels] with padded rows.
static long place_in_patch(const Geometry &g, long tap) {  // of [channels, kernel rows, kernel columns]
  const long taps = g.kernel * g.kernel;
  return tap % taps / g.kernel * g.patch_line() + tap % g.kernel * g.channels + tap / taps;
}
static float *weights_by_output(const Geometry &g, const float *w, Memory &memory) {
  const long taps = g.channels * g.kernel * g.kernel;
  float *found = memory.take<float>(g.outputs * g.patch());
  if (!found) return nullptr;
  memset(found, 0, sizeof(float) * g.outputs * g.patch());
  for (long n = 0; n < g.outputs; n++)
    for (long t = 0; t < taps; t++) found[n * g.patch() + place_in_patch(g, t)] = w[n * taps + t];
  return found;
}

// y [rows, NV vectors] += value w, from row to row `line` further in y and `turn` back in w
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

// What an input reaches: `columns` x `rows` currents [lanes], from `current` on, with the weights from `weight` on.
struct Reach {
  int weight, current;
  short rows, columns;
};

static Reach reach_of(const Geometry &g, long input) {
  const long channel = input / (g.height * g.width), width = g.columns() * g.pool, behind = g.kernel - g.stride;
  const long row = input / g.width % g.height + g.padding, column = input % g.width + g.padding;
  const long left = MORE(0, (column - behind) / g.stride), right = LESS(width - 1, column / g.stride);
  const long top = MORE(0, (row - behind) / g.stride), bottom = LESS(g.rows() * g.pool - 1, row / g.stride);
  const long tap = (channel * g.kernel + row - top * g.stride) * g.kernel + g.kernel - 1 - (column - left * g.stride);
  Reach found = {(int)(tap * g.lanes()), (int)((top * width + left) * g.lanes()), (short)MORE(0, bottom - top + 1),
                 (short)MORE(0, right - left + 1)};
  return found;
}

// One event into the currents [rows pool, columns pool, lanes]; with stride 1 all columns that it reaches are one run.
static void add_event(const Geometry &g, const float *w, const Reach &reach, float value, float *current) {
  const long lanes = g.lanes(), line = g.columns() * g.pool * lanes, turn = g.stride * g.kernel * lanes;
  const long run = g.stride == 1 ? reach.columns : 1;
  for (long c = 0; c < reach.columns; c += run)
    add_runs(w + reach.weight + c * g.stride * lanes, LANE(value), current + reach.current + c * lanes, reach.rows, line, turn,
             run * lanes / WIDTH);
}

// The largest current of every block, [blocks, lanes], and its number within the block; the first of several, as torch.
// POOL: the side of a block, 0 where it is not known before.
template <int POOL>
static void pool_blocks(const Geometry &g, const float *current, float *largest, uint8_t *where) {
  typedef uint8_t Bytes __attribute__((vector_size(WIDTH)));
  const long lanes = g.lanes(), pool = POOL ? POOL : g.pool, line = g.columns() * pool * lanes;
  for (long r = 0; r < g.rows(); r++)
    for (long c = 0; c < g.columns(); c++)
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
        const long b = r * g.columns() + c;
        const Bytes bytes = __builtin_convertvector(at, Bytes);
        store(largest + b * lanes + v, best);
        memcpy(where + b * g.outputs + v, &bytes, LESS(WIDTH, g.outputs - v));
      }
}

// y [rows, outputs, blocks], `where` [rows, blocks, outputs] if wanted; `bits` and a null x as in `linear_rows`. Not 0: no
// memory.
extern "C" int spiky_convolution(const Geometry *geometry, const float *x, Word *bits, const float *weight, const float *bias,
                                 float *y, uint8_t *where, long rows, int threads) {
  const Geometry g = *geometry;
  const long inputs = g.inputs(), lanes = g.lanes(), blocks = g.blocks();
  const long line = g.columns() * g.pool, places = g.rows() * g.pool * line;
  Memory shared;
  const float *w = weights_by_input(g, weight, shared);
  Reach *reach = shared.take<Reach>(inputs);
  if (shared.missing) return 1;
  for (long i = 0; i < inputs; i++) reach[i] = reach_of(g, i);
  int failed = 0;
#pragma omp parallel if (threads > 1) num_threads(threads) reduction(| : failed)
  {
    Memory own;
    int *index = own.take<int>(inputs + SLACK);
    float *current = own.take<float>(places * lanes), *largest = own.take<float>(blocks * lanes), *start = own.take<float>(lanes);
    uint8_t *unused = own.take<uint8_t>(blocks * g.outputs);
    failed |= own.missing;
    if (!own.missing) {
      memset(start, 0, sizeof(float) * lanes);
      memcpy(start, bias, sizeof(float) * g.outputs);
    }
#pragma omp for
    for (long r = 0; r < rows; r++) {
      if (own.missing) continue;
      const float *row = x ? x + r * inputs : nullptr;
      const long count = events_of_row(row, bits ? bits + r * WORDS(inputs) : nullptr, inputs, index);
      for (long p = 0; p < line; p++) memcpy(current + p * lanes, start, sizeof(float) * lanes);
      for (long p = line; p < places; p += line) memcpy(current + p * lanes, current, sizeof(float) * line * lanes);
      for (long e = 0; e < count; e++) add_event(g, w, reach[index[e]], row ? row[index[e]] : 1.0f, current);
      (g.pool == 2 ? pool_blocks<2> : pool_blocks<0>)(g, current, largest, where ? where + r * blocks * g.outputs : unused);
      float *out = y + r * g.outputs * blocks;
      for (long n = 0; n < g.outputs; n++)
        for (long b = 0; b < blocks; b++) out[n * blocks + b] = largest[b * lanes + n];
    }
  }
  return failed;
}

// Where the patches begin: block b's largest current, number i in the block, has the one at corner[b] + offset[i].
struct Places : Memory {
  int *inputs, *corner, *offset;  // of an input: its place in a padded map

  explicit Places(const Geometry &g)
      : inputs(take<int>(g.inputs())), corner(take<int>(g.blocks())), offset(take<int>(g.pool * g.pool)) {
    if (missing) return;
    for (long c = 0; c < g.inputs(); c++) inputs[c] = (int)g.place_of(c);
    for (long b = 0; b < g.blocks(); b++) corner[b] = (int)g.corner(b / g.columns() * g.pool, b % g.columns() * g.pool);
    for (long i = 0; i < g.pool * g.pool; i++) offset[i] = (int)g.corner(i / g.pool, i % g.pool);
  }
};

// sum [R, NV vectors] += the patches of a map that one channel's gradients belong to, times these
template <int R, int NV>
static void add_patches(const Geometry &g, const Places &places, const uint8_t *where, const float *map, const float *grad,
                        float *sum) {
  F total[R][NV] = {};
  const long blocks = g.blocks(), line = g.map_row(), stride = g.patch_line();
  for (long b = 0; b < blocks; b++, where += g.outputs) {
    const float *patch = map + places.corner[b] + places.offset[*where];
    const F value = LANE(grad[b]);
    for (int i = 0; i < R; i++)
      for (int v = 0; v < NV; v++) total[i][v] = multiply_add(value, load(patch + i * line + v * WIDTH), total[i][v]);
  }
  for (int i = 0; i < R; i++)
    for (int v = 0; v < NV; v++) store(sum + i * stride + v * WIDTH, load(sum + i * stride + v * WIDTH) + total[i][v]);
}

// The same for a whole kernel: sum [patch].
static void add_kernel(const Geometry &g, const Places &places, const uint8_t *where, const float *map, const float *grad,
                       float *sum) {
  const long vectors = g.patch_line() / WIDTH;
  for (long i = 0, high; i < g.kernel; i += high) {
    high = g.kernel - i >= 5 ? 5 : g.kernel - i >= 3 ? 3 : 1;
    for (long v = 0, wide; v < vectors; v += wide) {
      wide = LESS(WIDTH == 16 ? 4 : 2, vectors - v);
      const float *from = map + i * g.map_row() + v * WIDTH;
      float *to = sum + i * g.patch_line() + v * WIDTH;
      switch (high * 8 + wide) {
#define CASE(r, n) case r * 8 + n: add_patches<r, n>(g, places, where, from, grad, to); break;
        CASE(1, 1) CASE(1, 2) CASE(3, 1) CASE(3, 2) CASE(5, 1) CASE(5, 2)
#if WIDTH == 16
        CASE(1, 3) CASE(1, 4) CASE(3, 3) CASE(3, 4) CASE(5, 3) CASE(5, 4)
#endif
#undef CASE
      }
    }
  }
}

INLINE float sum_of(const float *x, long count) {
  F parts = LANE(0);
  long i = 0;
  for (; i + WIDTH <= count; i += WIDTH) parts = parts + load(x + i);
  float total = 0.0f;
  for (; i < count; i++) total += x[i];
  for (int j = 0; j < WIDTH; j++) total += parts[j];
  return total;
}

// A sample as a padded map, channels-last; `map` is zero but for the `count` events of the sample before, in `index`.
static long fill_map(const Geometry &g, const float *x, Word *bits, const int *places, float *map, int *index, long count) {
  for (long e = 0; e < count; e++) map[places[index[e]]] = 0.0f;
  count = events_of_row(x, bits, g.inputs(), index);
  for (long e = 0; e < count; e++) map[places[index[e]]] = x ? x[index[e]] : 1.0f;
  return count;
}

// Gradients of the weights of the outputs from `first` to `last`, and of their biases, as of all samples. Not 0: no memory.
static int weight_gradient(const Geometry &g, const float *x, Word *bits, const uint8_t *where, const float *grad,
                           const Places &places, float *grad_w, float *grad_bias, long rows, long first, long last) {
  const long blocks = g.blocks(), taps = g.channels * g.kernel * g.kernel, own = (last - first) * g.patch();
  Memory memory;
  int *index = memory.take<int>(g.inputs() + SLACK);
  float *map = memory.take<float>(g.map()), *sum = memory.take<float>(own);
  if (memory.missing) return 1;
  memset(map, 0, sizeof(float) * g.map());
  memset(sum, 0, sizeof(float) * own);
  memset(grad_bias + first, 0, sizeof(float) * (last - first));
  for (long r = 0, count = 0; r < rows; r++) {
    Word *word = x ? nullptr : bits + r * WORDS(g.inputs());
    count = fill_map(g, x ? x + r * g.inputs() : nullptr, word, places.inputs, map, index, count);
    for (long n = first; n < last; n++) {
      const float *of_output = grad + (r * g.outputs + n) * blocks;
      add_kernel(g, places, where + r * blocks * g.outputs + n, map, of_output, sum + (n - first) * g.patch());
      grad_bias[n] += sum_of(of_output, blocks);
    }
  }
  for (long n = first; n < last; n++)
    for (long t = 0; t < taps; t++) grad_w[n * taps + t] = sum[(n - first) * g.patch() + place_in_patch(g, t)];
  return 0;
}

// Gradients of the inputs of the samples that a thread takes.
struct InputGradient : Memory {
  const Geometry &g;
  const Places &places;
  const float *w;
  float *map, *turned, *patch;
  Word *masks;
  int *index;

  InputGradient(const Geometry &geometry, const Places &at, const float *weights)
      : g(geometry), places(at), w(weights), map(take<float>(g.map())), turned(take<float>(g.outputs)),
        patch(take<float>(g.patch())), masks(take<Word>(g.pool * g.pool * WORDS(g.outputs))), index(take<int>(g.outputs + SLACK)) {}

  // One sample's: of all outputs that a place of the kernel gave the largest current, the weights go there together.
  void operator()(const uint8_t *where, const float *grad, float *grad_x) {
    const long blocks = g.blocks(), words = WORDS(g.outputs), square = g.pool * g.pool, line = g.map_row();
    memset(map, 0, sizeof(float) * g.map());
    for (long b = 0; b < blocks; b++) {
      memset(masks, 0, sizeof(Word) * square * words);
      for (long n = 0; n < g.outputs; n++) {
        turned[n] = grad[n * blocks + b];
        masks[where[b * g.outputs + n] * words + n / 64] |= (Word)1 << n % 64;
      }
      for (long i = 0; i < square; i++) {
        const long count = events_of_bits(masks + i * words, g.outputs, index);
        if (count == 0) continue;
        event_row<false>(turned, index, count, w, nullptr, patch, g.patch());
        float *to = map + places.corner[b] + places.offset[i];
        const float *from = patch;
        for (long k = 0; k < g.kernel; k++, to += line, from += g.patch_line())
          for (long v = 0; v < g.patch_line(); v += WIDTH) store(to + v, load(to + v) + load(from + v));
      }
    }
    for (long c = 0; c < g.inputs(); c++) grad_x[c] = map[places.inputs[c]];
  }
};

// Gradients of the weights, the biases and, if wanted, the inputs; of the events' bits where x is null. Not 0: no memory.
extern "C" int spiky_convolution_gradient(const Geometry *geometry, const float *x, Word *bits, const uint8_t *where,
                                          const float *weight, const float *grad, float *grad_w, float *grad_bias,
                                          float *grad_x, long rows, int threads) {
  const Geometry g = *geometry;
  const Places places(g);
  Memory shared;
  const float *w = weights_by_output(g, weight, shared);
  if (places.missing || shared.missing) return 1;
  const long blocks = g.blocks(), share = (g.outputs + threads - 1) / threads;
  int failed = 0;
#pragma omp parallel if (threads > 1) num_threads(threads) reduction(| : failed)
  {
#pragma omp for nowait
    for (long first = 0; first < g.outputs; first += share)
      failed |= weight_gradient(g, x, bits, where, grad, places, grad_w, grad_bias, rows, first, LESS(first + share, g.outputs));
    if (grad_x) {
      InputGradient sample(g, places, w);
      failed |= sample.missing;
#pragma omp for
      for (long r = 0; r < rows; r++) {
        if (sample.missing) continue;
        sample(where + r * blocks * g.outputs, grad + r * g.outputs * blocks, grad_x + r * g.inputs());
      }
    }
  }
  return failed;
}

// Event-driven convolution whose currents are pooled by their maximum, on the CPU.
//
// Forward: an event adds its weights to the currents that it reaches; a sample's currents lie channels-last in the cache
// until they are pooled. Backward: all gradient of a block of currents belongs to its largest one, so both products are as
// sparse as pooling makes them. A current's inputs are added in ascending order, whatever the batch and the zeros: a row's
// bits depend on nothing else, and a sum's parts are those of one sample each, whatever the number of threads.
#pragma once

struct Sizes {
  long channels, height, width, outputs, kernel, stride, padding, pool;
};

// The sizes, and what follows from them, computed once: a division in a loop over events costs more than an event.
struct Geometry : Sizes {
  const long inputs, rows, columns, blocks;  // the last three: of pooled blocks
  const long lanes;
  const long pixel;               // channels of a place in maps and patches, padded where fewer vectors are read so
  const long patch_line, patch;   // what one row of the kernel sees, channels-last, padded; all rows of it
  const long map_row, map;        // of the padded input; vectors of a patch's row may reach beyond it

  explicit Geometry(const Sizes &sizes)
      : Sizes(sizes), inputs(channels * height * width), rows(((height + 2 * padding - kernel) / stride + 1) / pool),
        columns(((width + 2 * padding - kernel) / stride + 1) / pool), blocks(rows * columns), lanes(PADDED_TO(outputs, WIDTH)),
        pixel(pixel_of(channels, kernel)), patch_line(PADDED_TO(kernel * pixel, WIDTH)), patch(kernel * patch_line),
        map_row((width + 2 * padding) * pixel), map((height + 2 * padding) * map_row + WIDTH) {}

  // A vector that crosses a cache line takes two reads, and all do that begin at multiples of `channels`.
  static long pixel_of(long channels, long kernel) {
    const long padded = PADDED_TO(channels, WIDTH), crossing = 2 * PADDED_TO(kernel * channels, WIDTH);
    return kernel * padded < crossing ? padded : channels;
  }

  // where the patch of place (row, column) of the kernel begins in a padded map
  long corner(long row, long column) const { return row * stride * map_row + column * stride * pixel; }
  long place_of(long input) const {
    const long channel = input / (height * width), row = input / width % height, column = input % width;
    return (row + padding) * map_row + (column + padding) * pixel + channel;
  }
};

INLINE long events_of_row(const float *x, Word *bits, long inputs, int *index) {
  return x ? events_of(x, inputs, index, bits) : events_of_bits(bits, inputs, index);
}

// Weights as events read them: [channels, kernel rows, kernel columns from right to left, lanes]. Null: no memory.
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

// Weights as gradients read them: [outputs, patch], a patch being [kernel rows, kernel columns, channels] with padded rows.
static long place_in_patch(const Geometry &g, long tap) {  // of [channels, kernel rows, kernel columns]
  const long taps = g.kernel * g.kernel;
  return tap % taps / g.kernel * g.patch_line + tap % g.kernel * g.pixel + tap / taps;
}
static float *weights_by_output(const Geometry &g, const float *w, Memory &memory) {
  const long taps = g.channels * g.kernel * g.kernel;
  float *found = memory.take<float>(g.outputs * g.patch);
  if (!found) return nullptr;
  memset(found, 0, sizeof(float) * g.outputs * g.patch);
  for (long n = 0; n < g.outputs; n++)
    for (long t = 0; t < taps; t++) found[n * g.patch + place_in_patch(g, t)] = w[n * taps + t];
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
  const long channel = input / (g.height * g.width), width = g.columns * g.pool, behind = g.kernel - g.stride;
  const long row = input / g.width % g.height + g.padding, column = input % g.width + g.padding;
  const long left = MORE(0, (column - behind) / g.stride), right = LESS(width - 1, column / g.stride);
  const long top = MORE(0, (row - behind) / g.stride), bottom = LESS(g.rows * g.pool - 1, row / g.stride);
  const long tap = (channel * g.kernel + row - top * g.stride) * g.kernel + g.kernel - 1 - (column - left * g.stride);
  Reach found = {(int)(tap * g.lanes), (int)((top * width + left) * g.lanes), (short)MORE(0, bottom - top + 1),
                 (short)MORE(0, right - left + 1)};
  return found;
}

// One event into the currents [rows pool, columns pool, lanes]; with stride 1 all columns that it reaches are one run.
static void add_event(const Geometry &g, const float *w, const Reach &reach, float value, float *current) {
  const long lanes = g.lanes, line = g.columns * g.pool * lanes, turn = g.stride * g.kernel * lanes;
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
        memcpy(where + b * g.outputs + v, &bytes, LESS(WIDTH, g.outputs - v));
      }
}

// y [rows, outputs, blocks], `where` [rows, blocks, outputs] if wanted; `bits` and a null x as in `linear_rows`. Not 0: no
// memory.
extern "C" int spiky_convolution(const Sizes *sizes, const float *x, Word *bits, const float *weight, const float *bias,
                                 float *y, uint8_t *where, long rows, int threads) {
  const Geometry g(*sizes);
  const long inputs = g.inputs, lanes = g.lanes, blocks = g.blocks;
  const long line = g.columns * g.pool, places = g.rows * g.pool * line;
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
      : inputs(take<int>(g.inputs)), corner(take<int>(g.blocks)), offset(take<int>(g.pool * g.pool)) {
    if (missing) return;
    for (long c = 0; c < g.inputs; c++) inputs[c] = (int)g.place_of(c);
    for (long b = 0; b < g.blocks; b++) corner[b] = (int)g.corner(b / g.columns * g.pool, b % g.columns * g.pool);
    for (long i = 0; i < g.pool * g.pool; i++) offset[i] = (int)g.corner(i / g.pool, i % g.pool);
  }
};

// sum [R, NV vectors] += the patches of a map that one channel's gradients belong to, times these
template <int R, int NV>
static void add_patches(const Geometry &g, const Places &places, const uint8_t *where, const float *map, const float *grad,
                        float *sum) {
  F total[R * NV];  // unrolled at once, or GCC keeps them in memory
#pragma GCC unroll 25
  for (int i = 0; i < R * NV; i++) total[i] = LANE(0);
  const long blocks = g.blocks, outputs = g.outputs, line = g.map_row, stride = g.patch_line;
  for (long b = 0; b < blocks; b++, where += outputs) {
    const float *patch = map + places.corner[b] + places.offset[*where];
    const F value = LANE(grad[b]);
#pragma GCC unroll 25
    for (int i = 0; i < R * NV; i++) total[i] = multiply_add(value, load(patch + i / NV * line + i % NV * WIDTH), total[i]);
  }
#pragma GCC unroll 25
  for (int i = 0; i < R * NV; i++) {
    float *to = sum + i / NV * stride + i % NV * WIDTH;
    store(to, load(to) + total[i]);
  }
}

// The same for a whole kernel: sum [patch].
static void add_kernel(const Geometry &g, const Places &places, const uint8_t *where, const float *map, const float *grad,
                       float *sum) {
  const long vectors = g.patch_line / WIDTH;
  for (long i = 0, high; i < g.kernel; i += high) {
    high = g.kernel - i >= 5 ? 5 : g.kernel - i >= 3 ? 3 : 1;
    for (long v = 0, wide; v < vectors; v += wide) {
      wide = LESS(WIDTH == 16 ? 5 : 2, vectors - v);
      const float *from = map + i * g.map_row + v * WIDTH;
      float *to = sum + i * g.patch_line + v * WIDTH;
      switch (high * 8 + wide) {
#define CASE(r, n) case r * 8 + n: add_patches<r, n>(g, places, where, from, grad, to); break;
        CASE(1, 1) CASE(1, 2) CASE(3, 1) CASE(3, 2) CASE(5, 1) CASE(5, 2)
#if WIDTH == 16
        CASE(1, 3) CASE(1, 4) CASE(1, 5) CASE(3, 3) CASE(3, 4) CASE(3, 5) CASE(5, 3) CASE(5, 4) CASE(5, 5)
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
  count = events_of_row(x, bits, g.inputs, index);
  for (long e = 0; e < count; e++) map[places[index[e]]] = x ? x[index[e]] : 1.0f;
  return count;
}

// Gradients of the weights of the outputs from `first` to `last`, and of their biases, as of all samples. Not 0: no memory.
static int weight_gradient(const Geometry &g, const float *x, Word *bits, const uint8_t *where, const float *grad,
                           const Places &places, float *grad_w, float *grad_bias, long rows, long first, long last) {
  const long blocks = g.blocks, taps = g.channels * g.kernel * g.kernel, own = (last - first) * g.patch;
  Memory memory;
  int *index = memory.take<int>(g.inputs + SLACK);
  float *map = memory.take<float>(g.map), *sum = memory.take<float>(own);
  if (memory.missing) return 1;
  memset(map, 0, sizeof(float) * g.map);
  memset(sum, 0, sizeof(float) * own);
  memset(grad_bias + first, 0, sizeof(float) * (last - first));
  for (long r = 0, count = 0; r < rows; r++) {
    Word *word = x ? nullptr : bits + r * WORDS(g.inputs);
    count = fill_map(g, x ? x + r * g.inputs : nullptr, word, places.inputs, map, index, count);
    for (long n = first; n < last; n++) {
      const float *of_output = grad + (r * g.outputs + n) * blocks;
      add_kernel(g, places, where + r * blocks * g.outputs + n, map, of_output, sum + (n - first) * g.patch);
      grad_bias[n] += sum_of(of_output, blocks);
    }
  }
  for (long n = first; n < last; n++)
    for (long t = 0; t < taps; t++) grad_w[n * taps + t] = sum[(n - first) * g.patch + place_in_patch(g, t)];
  return 0;
}

// Gradients of the inputs of the samples that a thread takes.
struct InputGradient : Memory {
  const Geometry &g;
  const Places &places;
  const float *w;
  float *map, *turned;
  Word *masks;
  int *index, *ends;

  InputGradient(const Geometry &geometry, const Places &at, const float *weights)
      : g(geometry), places(at), w(weights), map(take<float>(g.map)), turned(take<float>(g.blocks * g.outputs)),
        masks(take<Word>(g.pool * g.pool * WORDS(g.outputs))), index(take<int>(g.blocks * g.outputs + SLACK)),
        ends(take<int>(g.blocks * g.pool * g.pool)) {}

  // One sample's: of all outputs that a place of the kernel gave the largest current, the weights go there together.
  void operator()(const uint8_t *where, const float *grad, float *grad_x) {
    list(where, grad);
    memset(map, 0, sizeof(float) * g.map);
    const long vectors = g.patch_line / WIDTH;
    for (long k = 0, high; k < g.kernel; k += high) {  // few rows at a time: their weights stay in the cache
      high = LESS(2, g.kernel - k);
      for (long v = 0, wide; v < vectors; v += wide) {
        wide = LESS(WIDTH == 16 ? 5 : 2, vectors - v);
        switch (high * 8 + wide) {
#define CASE(r, n) case r * 8 + n: add_weights<r, n>(k, v * WIDTH); break;
          CASE(1, 1) CASE(1, 2) CASE(2, 1) CASE(2, 2)
#if WIDTH == 16
          CASE(1, 3) CASE(1, 4) CASE(1, 5) CASE(2, 3) CASE(2, 4) CASE(2, 5)
#endif
#undef CASE
        }
      }
    }
    for (long c = 0; c < g.inputs; c++) grad_x[c] = map[places.inputs[c]];
  }

  // Of each block's places in turn: the outputs whose largest current lies there, ascending, up to index[ends[place]].
  void list(const uint8_t *where, const float *grad) {
    const long blocks = g.blocks, outputs = g.outputs, words = WORDS(outputs), square = g.pool * g.pool;
    for (long b = 0, count = 0; b < blocks; b++) {
      memset(masks, 0, sizeof(Word) * square * words);
      for (long n = 0; n < outputs; n++) {
        turned[b * outputs + n] = grad[n * blocks + b];
        masks[where[b * outputs + n] * words + n / 64] |= (Word)1 << n % 64;
      }
      for (long i = 0; i < square; i++) {
        count += events_of_bits(masks + i * words, outputs, index + count);
        ends[b * square + i] = (int)count;
      }
    }
  }

  // map += R rows of the kernel from k on, NV vectors from v on, of the listed outputs
  template <int R, int NV> void add_weights(long k, long v) {
    const long square = g.pool * g.pool, line = g.patch_line, row = g.map_row, outputs = g.outputs, patch = g.patch;
    const float *from = w + k * line + v, *value = turned;
    float *to = map + k * row + v;
    for (long b = 0, e = 0, place = 0; b < g.blocks; b++, value += outputs)
      for (long i = 0; i < square; i++, place++) {
        const long end = ends[place];
        if (e == end) continue;
        F total[R * NV];
#pragma GCC unroll 10
        for (int j = 0; j < R * NV; j++) total[j] = LANE(0);
        for (; e < end; e++) {
          const float *weight = from + index[e] * patch;
          const F times = LANE(value[index[e]]);
#pragma GCC unroll 10
          for (int j = 0; j < R * NV; j++) total[j] = multiply_add(times, load(weight + j / NV * line + j % NV * WIDTH), total[j]);
        }
        float *at = to + places.corner[b] + places.offset[i];
#pragma GCC unroll 10
        for (int j = 0; j < R * NV; j++) {
          float *here = at + j / NV * row + j % NV * WIDTH;
          store(here, load(here) + total[j]);
        }
      }
  }
};

// Gradients of the weights, the biases and, if wanted, the inputs; of the events' bits where x is null. Not 0: no memory.
extern "C" int spiky_convolution_gradient(const Sizes *sizes, const float *x, Word *bits, const uint8_t *where,
                                          const float *weight, const float *grad, float *grad_w, float *grad_bias,
                                          float *grad_x, long rows, int threads) {
  const Geometry g(*sizes);
  const Places places(g);
  Memory shared;
  const float *w = weights_by_output(g, weight, shared);
  if (places.missing || shared.missing) return 1;
  const long blocks = g.blocks, share = (g.outputs + threads - 1) / threads;
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
        sample(where + r * blocks * g.outputs, grad + r * g.outputs * blocks, grad_x + r * g.inputs);
      }
    }
  }
  return failed;
}

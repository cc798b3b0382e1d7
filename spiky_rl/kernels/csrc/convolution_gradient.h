// Gradients of an event-driven convolution whose currents are pooled by their maximum, on the CPU.
//
// All gradient of a block of currents belongs to its largest one, so the products for weights and inputs are as sparse as
// pooling makes them. A sum's parts are those of one sample each, whatever the number of threads.
#pragma once

// A vector that crosses a cache line takes two reads, and all do that begin at multiples of `channels`.
static long pixel_of(long channels, long kernel) {
  const long padded = PADDED_TO(channels, WIDTH), crossing = 2 * PADDED_TO(kernel * channels, WIDTH);
  return kernel * padded < crossing ? padded : channels;
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

// The gradients of a sample's pooled currents [blocks, lanes], channels last.
static void turn(const Geometry &g, const float *grad, float *turned) {
  for (long n = 0; n < g.outputs; n++)
    for (long b = 0; b < g.blocks; b++) turned[b * g.lanes + n] = grad[n * g.blocks + b];
}

// Which of up to 64 bytes equal a value, as bits.
INLINE Word equal_bytes(const uint8_t *bytes, long count, int value) {
#ifdef __AVX512BW__
  const __mmask64 there = ~(Word)0 >> (64 - count);
  return _mm512_mask_cmpeq_epi8_mask(there, _mm512_maskz_loadu_epi8(there, bytes), _mm512_set1_epi8((char)value));
#else
  Word word = 0;
  for (long i = 0; i < count; i++) word |= (Word)(bytes[i] == value) << i;
  return word;
#endif
}

// Gradients of the inputs of the samples that a thread takes.
struct InputGradient : Memory {
  const Geometry &g;
  const Places &places;
  const float *w;
  float *map, *turned;
  int *index, *ends;

  InputGradient(const Geometry &geometry, const Places &at, const float *weights)
      : g(geometry), places(at), w(weights), map(take<float>(g.map)), turned(take<float>(g.blocks * g.lanes)),
        index(take<int>(g.blocks * g.outputs + SLACK)), ends(take<int>(g.blocks * g.pool * g.pool)) {}

  // One sample's: of all outputs that a place of the kernel gave the largest current, the weights go there together.
  void operator()(const uint8_t *where, const float *grad, float *grad_x) {
    list(where, grad);
    memset(map, 0, sizeof(float) * g.map);
    const long vectors = g.patch_line / WIDTH;
    for (long k = 0, high; k < g.kernel; k += high) {  // few rows at a time: their weights stay in the cache
      high = LESS(g.outputs * g.patch_line <= 2048 ? 3 : 2, g.kernel - k);
      for (long v = 0, wide; v < vectors; v += wide) {
        wide = LESS(WIDTH == 16 ? 5 : 2, vectors - v);
        switch (high * 8 + wide) {
#define CASE(r, n) case r * 8 + n: add_weights<r, n>(k, v * WIDTH); break;
          CASE(1, 1) CASE(1, 2) CASE(2, 1) CASE(2, 2) CASE(3, 1) CASE(3, 2)
#if WIDTH == 16
          CASE(1, 3) CASE(1, 4) CASE(1, 5) CASE(2, 3) CASE(2, 4) CASE(2, 5) CASE(3, 3) CASE(3, 4) CASE(3, 5)
#endif
#undef CASE
        }
      }
    }
    for (long i = 0; i < g.inputs; i += g.width)
      for (long c = 0; c < g.width; c++) grad_x[i + c] = map[places.inputs[i] + c * g.pixel];
  }

  // Of each block's places in turn: the outputs whose largest current lies there, ascending, up to index[ends[place]].
  void list(const uint8_t *where, const float *grad) {
    const long outputs = g.outputs, square = g.pool * g.pool;
    turn(g, grad, turned);
    for (long b = 0, count = 0; b < g.blocks; b++, where += outputs)
      for (long i = 0; i < square; i++) {
        for (long n = 0; n < outputs; n += 64)
          count = append(index, count, equal_bytes(where + n, LESS(64, outputs - n), (int)i), n);
        ends[b * square + i] = (int)count;
      }
  }

  // map += R rows of the kernel from k on, NV vectors from v on, of the listed outputs
  template <int R, int NV> void add_weights(long k, long v) {
    const long square = g.pool * g.pool, line = g.patch_line, row = g.map_row, lanes = g.lanes, patch = g.patch;
    const float *from = w + k * line + v, *value = turned;
    float *to = map + k * row + v;
    for (long b = 0, e = 0, place = 0; b < g.blocks; b++, value += lanes)
      for (long i = 0; i < square; i++, place++) {
        const long end = ends[place];
        if (e == end) continue;
        F total[R * NV];
#pragma GCC unroll 15
        for (int j = 0; j < R * NV; j++) total[j] = LANE(0);
        for (; e < end; e++) {
          const float *weight = from + index[e] * patch;
          const F times = LANE(value[index[e]]);
#pragma GCC unroll 15
          for (int j = 0; j < R * NV; j++) total[j] = multiply_add(times, load(weight + j / NV * line + j % NV * WIDTH), total[j]);
        }
        float *at = to + places.corner[b] + places.offset[i];
#pragma GCC unroll 15
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
  const Geometry g(*sizes, pixel_of(sizes->channels, sizes->kernel)), packed(*sizes);
  const Places places(g), packed_places(packed);
  Memory shared;
  const float *w = weights_by_output(packed, weight, shared);
  if (places.missing || packed_places.missing || shared.missing) return 1;
  const long share = (g.outputs + threads - 1) / threads;
  int failed = 0;
#pragma omp parallel if (threads > 1) num_threads(threads) reduction(| : failed)
  {
#pragma omp for nowait
    for (long first = 0; first < g.outputs; first += share)
      failed |= weight_gradient(g, x, bits, where, grad, places, grad_w, grad_bias, rows, first, LESS(first + share, g.outputs));
    if (grad_x) {
      InputGradient sample(packed, packed_places, w);
      failed |= sample.missing;
#pragma omp for
      for (long r = 0; r < rows; r++) {
        if (sample.missing) continue;
        sample(where + r * g.blocks * g.outputs, grad + r * g.outputs * g.blocks, grad_x + r * g.inputs);
      }
    }
  }
  return failed;
}

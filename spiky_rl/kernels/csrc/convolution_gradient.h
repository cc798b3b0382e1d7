// Gradients of an event-driven convolution with max pooling, on the CPU.
//
// Only the largest current of a block has a gradient, so the products for weights and inputs are as sparse as the pooling. Sums
// add up one sample after the other, whatever the number of threads. In bfloat16 one instruction adds two products to a float32
// sum: the products of two blocks for the weights, of two outputs for the inputs.
#pragma once

// Floats per pixel. A vector that crosses a cache line takes two reads; padding avoids that, if the padded rows are not much
// longer.
static long pixel_of(long channels, long kernel) {
  const long padded = PADDED_TO(channels, WIDTH), crossing = 2 * PADDED_TO(kernel * channels, WIDTH);
  return kernel * padded < crossing ? padded : channels;
}

// A number format of the products and their sums. STEP: numbers side by side in a sum; TOGETHER: products per addition; WIDEST:
// maximum sums per row.
struct Single {
  typedef float Number;
  typedef F Factor;
  struct Sum {
    F lanes;
  };
  static constexpr long STEP = WIDTH, TOGETHER = 1, WIDEST = WIDTH == 16 ? 5 : 2;

  static Number number(float x) { return x; }
  static const Number *numbers(const float *x, long, Number *) { return x; }
  static METHOD Factor factor(const Number *x) { return LANE(*x); }
  static METHOD Factor factor(Number x, Number) { return LANE(x); }
  static METHOD void add(Sum &sum, const Number *one, const Number *, Factor x) { sum.lanes = multiply_add(x, load(one), sum.lanes); }
  static METHOD void add_to(float *to, const Sum &sum) { store(to, load(to) + sum.lanes); }
  static long lane(long i) { return i; }  // position in a sum of number i of a row
};

#if HAS_BFLOAT16
template <int LANES> struct Vector;
template <> struct Vector<16> { typedef __m512 Lanes; };
template <> struct Vector<8> { typedef __m256 Lanes; };
template <int LANES> struct Pairs {
  typedef Half Number;
  typedef __m512i Factor;
  typedef typename Vector<LANES>::Lanes Lanes;
  struct alignas(64) Sum {  // GCC moves two vectors at once
    Lanes low, high;        // the first four of every eight numbers, and the last four
  };
  static constexpr long STEP = 2 * LANES, TOGETHER = 2, WIDEST = 2;

  static Number number(float x) { return (Half)rounded(x); }
  static const Number *numbers(const float *x, long count, Number *to) {  // padded with zeros to a multiple of 16
    for (long i = 0; i < count; i += 16) {
      const __mmask16 there = (__mmask16)(0xffff >> (16 - LESS(16, count - i)));
      _mm256_storeu_si256((__m256i *)(to + i), (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(there, x + i)));
    }
    return to;
  }
  static METHOD Factor factor(const Number *x) {
    int pair;
    memcpy(&pair, x, sizeof pair);
    return _mm512_set1_epi32(pair);
  }
  static METHOD Factor factor(Number x, Number y) { return _mm512_set1_epi32(x | y << 16); }
  static METHOD void add(Sum &sum, const Number *one, const Number *two, Factor x) {
    if constexpr (LANES == 16) {
      __m512i u = _mm512_loadu_si512(one), v = _mm512_loadu_si512(two);
      asm("" : "+v"(u), "+v"(v));  // keeps GCC from reading one of them twice
      sum.low = (Lanes)_mm512_dpbf16_ps((__m512)sum.low, (__m512bh)_mm512_unpacklo_epi16(u, v), (__m512bh)x);
      sum.high = (Lanes)_mm512_dpbf16_ps((__m512)sum.high, (__m512bh)_mm512_unpackhi_epi16(u, v), (__m512bh)x);
    } else {
      __m256i u = _mm256_loadu_si256((const __m256i *)one), v = _mm256_loadu_si256((const __m256i *)two);
      asm("" : "+v"(u), "+v"(v));
      const __m256bh pair = (__m256bh)_mm512_castsi512_si256(x);
      sum.low = (Lanes)_mm256_dpbf16_ps((__m256)sum.low, (__m256bh)_mm256_unpacklo_epi16(u, v), pair);
      sum.high = (Lanes)_mm256_dpbf16_ps((__m256)sum.high, (__m256bh)_mm256_unpackhi_epi16(u, v), pair);
    }
  }
  static METHOD void add_to(float *to, const Sum &sum) {
    Lanes parts[2];
    memcpy(parts, to, sizeof parts);
    parts[0] += sum.low, parts[1] += sum.high;
    memcpy(to, parts, sizeof parts);
  }
  static long lane(long i) { return i / STEP * STEP + i % 8 / 4 * LANES + i % STEP / 8 * 4 + i % 4; }
};
#endif

// Splits a kernel into pieces whose sums fit the registers, and calls piece(Piece<R, NV>, k, v) for each: R rows from k on, at most
// `most`, and NV steps from v on, at most WIDEST.
template <int R_, int NV_> struct Piece {
  static constexpr int R = R_, NV = NV_;
};
template <long WIDEST, typename Do> static void in_pieces(long rows, long most, long steps, const Do &piece) {
  for (long k = 0, high; k < rows; k += high) {
    const long left = LESS(most, rows - k);
    high = left >= 5 ? 5 : LESS(left, 3);
    for (long v = 0, wide; v < steps; v += wide) {
      wide = LESS(WIDEST, steps - v);
      switch (high * 8 + wide) {
#define CASE(r, n) case r * 8 + n: if constexpr (n <= WIDEST) piece(Piece<r, n>(), k, v); break;
        CASE(1, 1) CASE(1, 2) CASE(1, 3) CASE(1, 4) CASE(1, 5) CASE(2, 1) CASE(2, 2) CASE(2, 3) CASE(2, 4) CASE(2, 5)
        CASE(3, 1) CASE(3, 2) CASE(3, 3) CASE(3, 4) CASE(3, 5) CASE(5, 1) CASE(5, 2) CASE(5, 3) CASE(5, 4) CASE(5, 5)
#undef CASE
      }
    }
  }
}

// Starts of patches: if current i of block b is the largest, its patch begins at corner[b] + offset[i].
struct Places : Memory {
  int *inputs, *corner, *offset;  // inputs: the index of each input in a padded map

  explicit Places(const Geometry &g)
      : inputs(take<int>(g.inputs)), corner(take<int>(g.blocks)), offset(take<int>(g.pool * g.pool)) {
    if (missing) return;
    for (long c = 0; c < g.inputs; c++) inputs[c] = (int)g.place_of(c);
    for (long b = 0; b < g.blocks; b++) corner[b] = (int)g.corner(b / g.columns * g.pool, b % g.columns * g.pool);
    for (long i = 0; i < g.pool * g.pool; i++) offset[i] = (int)g.corner(i / g.pool, i % g.pool);
  }
};

// sum [R rows, `line` floats apart, NV steps] += the patches of one output channel's largest currents, times their gradients.
// It is not inlined, because GCC would then keep pointers in memory.
template <class Format, int R, int NV>
[[gnu::noinline]] static void add_patches(const Geometry &g, const Places &places, const uint8_t *where,
                                          const typename Format::Number *map, const typename Format::Number *grad,
                                          float *sum, long line) {
  typename Format::Sum total[R * NV];  // without the unroll pragmas GCC keeps them in memory
#pragma GCC unroll 25
  for (int i = 0; i < R * NV; i++) total[i] = typename Format::Sum();
  const long blocks = g.blocks, outputs = g.outputs, row = g.map_row;
  for (long b = 0; b < blocks; b += Format::TOGETHER, where += Format::TOGETHER * outputs) {
    const auto *one = map + places.corner[b] + places.offset[*where], *two = one;
    if (Format::TOGETHER == 2 && b + 1 < blocks) two = map + places.corner[b + 1] + places.offset[where[outputs]];
    const auto factor = Format::factor(grad + b);
#pragma GCC unroll 25
    for (int i = 0; i < R * NV; i++) {
      const long at = i / NV * row + i % NV * Format::STEP;
      Format::add(total[i], one + at, two + at, factor);
    }
  }
#pragma GCC unroll 25
  for (int i = 0; i < R * NV; i++) Format::add_to(sum + i / NV * line + i % NV * Format::STEP, total[i]);
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

// Computes the gradients of the weights and biases of outputs `first` to `last`, over all samples. Returns nonzero if memory runs
// out.
template <class Format>
static int weight_gradient(const Geometry &g, const Places &places, const float *x, Word *bits, const uint8_t *where,
                           const float *grad, float *grad_w, float *grad_bias, long rows, long first, long last) {
  typedef typename Format::Number Number;
  const long blocks = g.blocks, area = g.kernel * g.kernel, taps = g.channels * area;
  const long line = PADDED_TO(g.kernel * g.pixel, Format::STEP), patch = g.kernel * line, size = g.map + Format::STEP;
  Memory memory;
  int *index = memory.take<int>(g.inputs + SLACK);
  Number *map = memory.take<Number>(size), *rounded = memory.take<Number>(blocks + 16);
  float *sum = memory.take<float>((last - first) * patch);
  if (memory.missing) return 1;
  memset(map, 0, sizeof(Number) * size);
  memset(sum, 0, sizeof(float) * (last - first) * patch);
  memset(grad_bias + first, 0, sizeof(float) * (last - first));
  for (long r = 0, count = 0; r < rows; r++) {
    // turn the sample into a padded map, channels-last: first clear the events of the previous sample
    for (long e = 0; e < count; e++) map[places.inputs[index[e]]] = 0;
    const float *row = x ? x + r * g.inputs : nullptr;
    count = events_of_row(row, x ? nullptr : bits + r * WORDS(g.inputs), g.inputs, index);
    for (long e = 0; e < count; e++) map[places.inputs[index[e]]] = Format::number(x ? row[index[e]] : 1.0f);
    for (long n = first; n < last; n++) {
      const float *of_output = grad + (r * g.outputs + n) * blocks;
      const Number *factors = Format::numbers(of_output, blocks, rounded);
      const uint8_t *largest = where + r * blocks * g.outputs + n;
      float *own = sum + (n - first) * patch;
      in_pieces<Format::WIDEST>(g.kernel, g.kernel, line / Format::STEP, [&](auto p, long k, long v) {
        const long step = v * Format::STEP;
        add_patches<Format, p.R, p.NV>(g, places, largest, map + k * g.map_row + step, factors, own + k * line + step, line);
      });
      grad_bias[n] += sum_of(of_output, blocks);
    }
  }
  for (long n = first; n < last; n++)
    for (long t = 0; t < taps; t++) {
      const long place = t % g.kernel * g.pixel + t / area;
      grad_w[n * taps + t] = sum[(n - first) * patch + t % area / g.kernel * line + Format::lane(place)];
    }
  return 0;
}

// Bits that say which of up to 64 bytes equal a value.
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

// Computes the gradients of inputs; one object per thread.
template <class Format> struct InputGradient : Memory {
  typedef typename Format::Number Number;
  const Geometry &g;
  const Places &places;
  const long line, patch;  // numbers in the weights of a row of the kernel, padded; of all rows
  const Number *w;
  float *map, *turned;
  Number *rounded;
  int *index, *ends;

  InputGradient(const Geometry &geometry, const Places &at, const Number *weights)
      : g(geometry), places(at), line(line_of(g)), patch(g.kernel * line), w(weights), map(take<float>(g.map + Format::STEP)),
        turned(take<float>(g.blocks * g.lanes + 16)), rounded(take<Number>(g.blocks * g.lanes + 16)),
        index(take<int>(g.blocks * (g.outputs + g.pool * g.pool) + SLACK)), ends(take<int>(g.blocks * g.pool * g.pool)) {
    if (!missing) memset(turned, 0, sizeof(float) * (g.blocks * g.lanes + 16));
  }

  static long line_of(const Geometry &g) { return PADDED_TO(g.kernel * g.pixel, Format::STEP); }

  // Weights in the layout that `add_weights` reads: [outputs + 1, kernel rows, line], the last output all zeros. The order within
  // a line makes its sums those of kernel columns and channels. Null if memory runs out.
  static Number *weights(const Geometry &g, const float *w, Memory &memory) {
    const long line = line_of(g), used = g.kernel * g.channels;
    Number *found = memory.take<Number>((g.outputs + 1) * g.kernel * line);
    if (!found) return nullptr;
    memset(found + g.outputs * g.kernel * line, 0, sizeof(Number) * g.kernel * line);
    for (long n = 0, p = 0; n < g.outputs; n++)
      for (long k = 0; k < g.kernel; k++)
        for (long i = 0; i < line; i++, p++) {
          const long tap = Format::lane(i), channel = tap % g.channels;
          found[p] = Format::number(tap < used ? w[((n * g.channels + channel) * g.kernel + k) * g.kernel + tap / g.channels] : 0.0f);
        }
    return found;
  }

  // Computes the input gradient of one sample. For each position of the kernel it adds the weights of all outputs whose largest
  // current lies there.
  void operator()(const uint8_t *where, const float *grad, float *grad_x) {
    transpose(grad, g.blocks, g.outputs, g.blocks, turned, g.lanes);
    const Number *factors = Format::numbers(turned, g.blocks * g.lanes + 16, rounded);
    list(where);
    memset(map, 0, sizeof(float) * g.map);
    const long most = MORE(2, 24576 / (g.outputs * line * (long)sizeof(Number)));  // rows whose weights stay in the cache
    in_pieces<Format::WIDEST>(g.kernel, most, line / Format::STEP, [&](auto p, long k, long v) {
      add_weights<p.R, p.NV>(factors, w + k * line + v * Format::STEP, map + k * g.map_row + v * Format::STEP);
    });
    const long run = g.padding ? g.width : g.height * g.width;  // neighbours that are contiguous in the map
    for (long i = 0; i < g.height * g.width; i += run)
      transpose(map + places.inputs[i], g.pixel, run, g.channels, grad_x + i, g.height * g.width);
  }

  // Lists for each place of each block the outputs whose largest current lies there, ascending, up to index[ends[place]]. An odd
  // list is filled up with the output of zeros if two are taken together.
  void list(const uint8_t *where) {
    const long outputs = g.outputs, square = g.pool * g.pool;
    for (long b = 0, count = 0, begin = 0; b < g.blocks; b++, where += outputs)
      for (long i = 0; i < square; i++) {
        for (long n = 0; n < outputs; n += 64)
          count = append(index, count, equal_bytes(where + n, LESS(64, outputs - n), (int)i), n);
        if (Format::TOGETHER == 2 && (count - begin) % 2) index[count++] = (int)outputs;
        ends[b * square + i] = (int)(begin = count);
      }
  }

  // to += the weights of the listed outputs times their gradients: R rows of the kernel, NV steps of each
  template <int R, int NV> void add_weights(const Number *factor, const Number *from, float *to) {
    const long square = g.pool * g.pool, line = this->line, row = g.map_row, patch = this->patch;
    for (long b = 0, e = 0, place = 0; b < g.blocks; b++, factor += g.lanes)
      for (long i = 0; i < square; i++, place++) {
        const long end = ends[place];
        if (e == end) continue;
        typename Format::Sum total[R * NV];
#pragma GCC unroll 25
        for (int j = 0; j < R * NV; j++) total[j] = typename Format::Sum();
        for (; e < end; e += Format::TOGETHER) {
          const long one = index[e], two = index[e + Format::TOGETHER - 1];
          const auto times = Format::factor(factor[one], factor[two]);
#pragma GCC unroll 25
          for (int j = 0; j < R * NV; j++) {
            const long at = j / NV * line + j % NV * Format::STEP;
            Format::add(total[j], from + one * patch + at, from + two * patch + at, times);
          }
        }
        float *at = to + places.corner[b] + places.offset[i];
#pragma GCC unroll 25
        for (int j = 0; j < R * NV; j++) Format::add_to(at + j / NV * row + j % NV * Format::STEP, total[j]);
      }
  }
};

template <class Format, class Wide>
static int gradients(const Sizes *sizes, const float *x, Word *bits, const uint8_t *where, const float *weight,
                     const float *grad, float *grad_w, float *grad_bias, float *grad_x, long rows, int threads) {
  const Geometry g(*sizes, sizeof(typename Format::Number) == 4 ? pixel_of(sizes->channels, sizes->kernel) : 0), packed(*sizes);
  const Places places(g), packed_places(packed);
  Memory shared;
  const auto *w = InputGradient<Wide>::weights(packed, weight, shared);
  if (places.missing || packed_places.missing || shared.missing) return 1;
  const long share = (g.outputs + threads - 1) / threads;
  int failed = 0;
#pragma omp parallel if (threads > 1) num_threads(threads) reduction(| : failed)
  {
#pragma omp for nowait
    for (long first = 0; first < g.outputs; first += share)
      failed |= weight_gradient<Format>(g, places, x, bits, where, grad, grad_w, grad_bias, rows, first,
                                        LESS(first + share, g.outputs));
    if (grad_x) {
      InputGradient<Wide> sample(packed, packed_places, w);
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

// Computes the gradients of the weights, the biases and, if grad_x is given, the inputs. If x is null, the events come from `bits`.
// Uses bfloat16 if it is requested and the hardware has it. Returns nonzero if memory runs out.
extern "C" int spiky_convolution_gradient(const Sizes *sizes, const float *x, Word *bits, const uint8_t *where,
                                          const float *weight, const float *grad, float *grad_w, float *grad_bias,
                                          float *grad_x, long rows, int bfloat16, int threads) {
#define GRADIENTS(format, wide) gradients<format, wide>(sizes, x, bits, where, weight, grad, grad_w, grad_bias, grad_x, rows, threads)
#if HAS_BFLOAT16
  if (bfloat16) return sizes->kernel * sizes->channels <= 16 ? GRADIENTS(Pairs<8>, Pairs<16>) : GRADIENTS(Pairs<16>, Pairs<16>);
#endif
  return GRADIENTS(Single, Single);
}

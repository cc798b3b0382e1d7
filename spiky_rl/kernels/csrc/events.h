// Event-driven linear layers on the CPU.
//
// A weight matrix is stored input-major, [inputs, outputs], so that an event reads one row of it. The inputs of a sample are
// added in ascending order, whatever the batch size and whether or not zeros are skipped. So a rollout of one environment and an
// update of thousands give the same bits.
#pragma once

#include <stdint.h>
#ifdef __AVX__
#include <immintrin.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#endif

typedef uint64_t Word;
#define WORDS(inputs) (((inputs) + 63) / 64)
#define TILE (WIDTH == 16 ? 13 : 7)  // number of accumulators that fit the registers
#define ROWS 64                      // rows per block of the weight gradient: the bits of a word
#define PADDED_TO(n, to) (((n) + (to) - 1) / (to) * (to))
#define LESS(a, b) ((a) < (b) ? (a) : (b))
#define MORE(a, b) ((a) > (b) ? (a) : (b))

// Pieces of memory that are freed together.
struct Memory {
  void *pieces[8];
  int count = 0;
  bool missing = false;  // an allocation failed

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

// Memory for floats that begins with a cache line, in whole lines, as aligned_alloc requires. Null if memory runs out.
static float *allocate_floats(long count) { return (float *)aligned_alloc(64, PADDED_TO(sizeof(float) * count, 64)); }

INLINE F load(const float *x) {
  F value;
  memcpy(&value, x, sizeof value);
  return value;
}
INLINE void store(float *x, F value) { memcpy(x, &value, sizeof value); }
INLINE F load_some(const float *x, long count) {  // count < WIDTH
#ifdef __AVX512F__
  return (F)_mm512_maskz_loadu_ps((__mmask16)((1 << count) - 1), x);
#else
  F value = {};
  memcpy(&value, x, sizeof(float) * count);
  return value;
#endif
}
INLINE void store_some(float *x, F value, long count) {  // count < WIDTH
#ifdef __AVX512F__
  _mm512_mask_storeu_ps(x, (__mmask16)((1 << count) - 1), (__m512)value);
#else
  memcpy(x, &value, sizeof(float) * count);
#endif
}

// Start of vector v in an output row; the last vector overlaps its neighbour if WIDTH does not divide the row.
INLINE long place(long v, long outputs) { return (v + 1) * WIDTH <= outputs ? v * WIDTH : outputs - WIDTH; }

// The events among 64 inputs as bits.
INLINE Word bits_of(const float *x, long inputs) {
  Word word = 0;
  long i = 0;
#ifdef __AVX512F__
  for (; i + 16 <= inputs; i += 16) word |= (Word)_mm512_cmp_ps_mask(_mm512_loadu_ps(x + i), _mm512_setzero_ps(), _CMP_NEQ_UQ) << i;
#elif defined(__AVX__)
  for (; i + 8 <= inputs; i += 8)
    word |= (Word)_mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(x + i), _mm256_setzero_ps(), _CMP_NEQ_UQ)) << i;
#endif
  for (; i < inputs; i++) word |= (Word)(x[i] != 0.0f) << i;
  return word;
}

// Appends the indices of a word's events; bit 0 is input `first`. Writes up to SLACK numbers beyond them.
#define SLACK 16
INLINE long append(int *index, long count, Word word, long first) {
#ifdef __AVX512F__
  const __m512i own = _mm512_add_epi32(_mm512_set1_epi32((int)first), _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0));
  for (int i = 0; word; i += 16, word >>= 16) {
    const __m512i numbers = _mm512_add_epi32(own, _mm512_set1_epi32(i));
    _mm512_storeu_si512(index + count, _mm512_maskz_compress_epi32((__mmask16)word, numbers));
    count += __builtin_popcountll(word & 0xffff);
  }
#else
  for (; word; word &= word - 1) index[count++] = (int)(first + __builtin_ctzll(word));
#endif
  return count;
}

// Finds the non-zero inputs of a row: their indices, and their bits if `bits` is given.
INLINE long events_of(const float *x, long inputs, int *index, Word *bits) {
  long count = 0;
  for (long first = 0; first < inputs; first += 64) {
    Word word = bits_of(x + first, inputs - first < 64 ? inputs - first : 64);
    if (bits) bits[first / 64] = word;
    count = append(index, count, word, first);
  }
  return count;
}
INLINE long events_of_bits(const Word *bits, long inputs, int *index) {
  long count = 0;
  for (long w = 0; w < WORDS(inputs); w++) count = append(index, count, bits[w], w * 64);
  return count;
}

// Floats from one row of weights to the next if rows are padded with zeros, so that no vector crosses a cache line.
#define PADDED_ROW(outputs) PADDED_TO(outputs, WIDTH)

// y[tile] = bias + sum over events; NV vectors of the output row from v on. BINARY: every event is 1. PADDED: weights and bias have
// padded rows, and the last vector is cut at the end of the row.
template <int NV, bool BINARY, bool PADDED>
static void add_events(const float *x, const int *index, long count, const float *w, const float *bias, float *y, long v,
                       long outputs) {
  F sum[NV];
  long at[NV];
  const long stride = PADDED ? PADDED_ROW(outputs) : outputs;
  for (int i = 0; i < NV; i++)
    at[i] = PADDED ? (v + i) * WIDTH : place(v + i, outputs), sum[i] = bias ? load(bias + at[i]) : LANE(0);
  const float *base = w + at[0];
  const long tail = at[NV - 1] - at[0];
  for (long e = 0; e < count; e++) {
    const float *row = base + index[e] * stride;
    const F value = LANE(BINARY ? 1.0f : x[index[e]]);
    for (int i = 0; i < NV - 1; i++) sum[i] = BINARY ? sum[i] + load(row + i * WIDTH) : multiply_add(value, load(row + i * WIDTH), sum[i]);
    sum[NV - 1] = BINARY ? sum[NV - 1] + load(row + tail) : multiply_add(value, load(row + tail), sum[NV - 1]);
  }
  for (int i = 0; i < NV; i++)
    if (PADDED && at[i] + WIDTH > outputs) store_some(y + at[i], sum[i], outputs - at[i]);
    else store(y + at[i], sum[i]);
}

template <bool BINARY, bool PADDED = false>
static void event_row(const float *x, const int *index, long count, const float *w, const float *bias, float *y,
                      long outputs) {
  if (!PADDED && outputs < WIDTH) {
    F sum = bias ? load_some(bias, outputs) : LANE(0);
    for (long e = 0; e < count; e++)
      sum = sum + LANE(BINARY ? 1.0f : x[index[e]]) * load_some(w + index[e] * outputs, outputs);
    store_some(y, sum, outputs);
    return;
  }
  const long vectors = (outputs + WIDTH - 1) / WIDTH;
  const long parts = (vectors + TILE - 1) / TILE;
  for (long part = 0, v = 0; part < parts; part++) {
    const long size = (vectors - v + parts - part - 1) / (parts - part);
    switch (size) {
#define CASE(n) case n: add_events<n, BINARY, PADDED>(x, index, count, w, bias, y, v, outputs); break;
      CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7)
#if WIDTH == 16
      CASE(8) CASE(9) CASE(10) CASE(11) CASE(12) CASE(13)
#endif
#undef CASE
    }
    v += size;
  }
}

// The dense product for inputs with few zeros: MR rows share each read of the weights. PADDED: `w` is a panel of `panels_of` with
// rows of NV vectors, and the outputs end within the last vector.
#define MR 6
#define MV (WIDTH == 16 ? 4 : 2)
template <int R, int NV, bool PADDED>
static void dense_tile(const float *x, long inputs, const float *w, const float *bias, float *y, long v, long outputs) {
  F sum[R][NV];
  long at[NV];
  for (int i = 0; i < NV; i++) {
    at[i] = PADDED ? (v + i) * WIDTH : place(v + i, outputs);
    for (int r = 0; r < R; r++) sum[r][i] = bias ? load(bias + at[i]) : LANE(0);
  }
  for (long c = 0; c < inputs; c++) {
    F row[NV];
    for (int i = 0; i < NV; i++) row[i] = load(PADDED ? w + (c * NV + i) * WIDTH : w + c * outputs + at[i]);
    for (int r = 0; r < R; r++)
      for (int i = 0; i < NV; i++) sum[r][i] = multiply_add(LANE(x[r * inputs + c]), row[i], sum[r][i]);
  }
  for (int r = 0; r < R; r++)
    for (int i = 0; i < NV; i++)
      if (PADDED && at[i] + WIDTH > outputs) store_some(y + r * outputs + at[i], sum[r][i], outputs - at[i]);
      else store(y + r * outputs + at[i], sum[r][i]);
}

// Takes all rows for one panel of the weights before the next panel, so that the panel stays in the first-level cache.
template <int NV, bool PADDED>
static void dense_panel(const float *x, long inputs, const float *w, const float *bias, float *y, long v, long outputs,
                        long rows) {
  long r = 0;
  for (; r + MR <= rows; r += MR) dense_tile<MR, NV, PADDED>(x + r * inputs, inputs, w, bias, y + r * outputs, v, outputs);
  switch (rows - r) {
#define CASE(n) case n: dense_tile<n, NV, PADDED>(x + r * inputs, inputs, w, bias, y + r * outputs, v, outputs); break;
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5)
#undef CASE
  }
}
static void dense_rows(const float *x, long inputs, const float *w, const float *bias, float *y, long outputs, long rows) {
  const long vectors = (outputs + WIDTH - 1) / WIDTH;
  long v = 0;
  for (; v + MV <= vectors; v += MV) dense_panel<MV, false>(x, inputs, w, bias, y, v, outputs, rows);
  for (; v < vectors; v++) dense_panel<1, false>(x, inputs, w, bias, y, v, outputs, rows);
}

#ifdef __AVX512F__
typedef __m512 Register;
// Transposes 16 x 16 numbers of 32 bits in registers.
INLINE void transpose_registers(Register *a) {
  __m512 b[16];
  for (int i = 0; i < 16; i += 2) b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]), b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; j++) {
      const __m512d low = _mm512_castps_pd(b[i + j]), high = _mm512_castps_pd(b[i + j + 2]);
      a[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high)), a[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
    }
  for (int half = 0; half < 16; half += 8)
    for (int i = 0; i < 4; i++) {
      b[half + i] = _mm512_shuffle_f32x4(a[half + i], a[half + i + 4], 0x88);
      b[half + i + 4] = _mm512_shuffle_f32x4(a[half + i], a[half + i + 4], 0xdd);
    }
  for (int i = 0; i < 8; i++) {
    a[i] = _mm512_shuffle_f32x4(b[i], b[i + 8], 0x88);
    a[i + 8] = _mm512_shuffle_f32x4(b[i], b[i + 8], 0xdd);
  }
}
#elif defined(__AVX__)
typedef __m256 Register;
// Transposes 8 x 8 numbers of 32 bits in registers.
INLINE void transpose_registers(Register *a) {
  __m256 b[8];
  for (int i = 0; i < 8; i += 2) b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]), b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; j++) {
      a[i + 2 * j] = _mm256_shuffle_ps(b[i + j], b[i + j + 2], 0x44);
      a[i + 2 * j + 1] = _mm256_shuffle_ps(b[i + j], b[i + j + 2], 0xee);
    }
  for (int i = 0; i < 4; i++) {
    const __m256 low = a[i], high = a[i + 4];
    a[i] = _mm256_permute2f128_ps(low, high, 0x20);
    a[i + 4] = _mm256_permute2f128_ps(low, high, 0x31);
  }
}
#endif

// to [N, width] = the transpose of `count` <= WIDTH rows of w [count, N]; columns beyond `count` are 0.
static void turn_rows(const float *w, float *to, long count, long N, long width) {
#ifdef __AVX__
  for (long n = 0; n < N; n += WIDTH) {
    const long some = LESS(N - n, WIDTH);
    Register block[WIDTH];
    for (long i = 0; i < WIDTH; i++) {
      const float *row = w + i * N + n;
      block[i] = (Register)(i >= count ? LANE(0) : some < WIDTH ? load_some(row, some) : load(row));
    }
    transpose_registers(block);
    for (long i = 0; i < some; i++) store(to + (n + i) * width, (F)block[i]);
  }
#else
  for (long n = 0; n < N; n++)
    for (long i = 0; i < WIDTH; i++) to[n * width + i] = i < count ? w[i * N + n] : 0.0f;
#endif
}

// The transpose of weights [C, N], for the backward product, in panels of MV vectors of C: each panel is [N, its vectors], padded
// with zeros. Null if memory runs out.
static float *panels_of(const float *w, long C, long N) {
  float *found = allocate_floats(N * PADDED_ROW(C)), *panel = found;
  const long vectors = PADDED_ROW(C) / WIDTH;
  for (long v = 0; found && v < vectors; v += MV) {
    const long width = LESS(vectors - v, MV) * WIDTH;
    for (long i = 0; i < width; i += WIDTH) {
      const long c = v * WIDTH + i;
      turn_rows(w + c * N, panel + i, LESS(C - c, WIDTH), N, width);
    }
    panel += N * width;
  }
  return found;
}
// y [rows, C] = g [rows, N] W', with the panels that `panels_of` made of the weights W [C, N].
static void returned_rows(const float *g, const float *panels, float *y, long rows, long C, long N) {
  const long vectors = PADDED_ROW(C) / WIDTH;
  for (long v = 0; v < vectors; v += MV) {
    switch (vectors - v < MV ? vectors - v : MV) {
#define CASE(n) case n: dense_panel<n, true>(g, N, panels, nullptr, y, v, C, rows); break;
      CASE(1) CASE(2)
#if WIDTH == 16
      CASE(3) CASE(4)
#endif
#undef CASE
    }
    panels += MV * WIDTH * N;
  }
}

// y [rows, outputs] = x [rows, inputs] w [inputs, outputs] + bias. `bits` [rows, WORDS(inputs)], if given, receives the events; if
// x is null, the events are read from it. `index` has room for all inputs and SLACK. `padded`: w and bias have padded rows.
static void linear_rows(const float *x, Word *bits, const float *w, const float *bias, float *y, long rows, long inputs,
                        long outputs, int binary, int *index, int padded = 0) {
  if (!binary && outputs >= WIDTH) return dense_rows(x, inputs, w, bias, y, outputs, rows);
  for (long r = 0; r < rows; r++) {
    Word *word = bits ? bits + r * WORDS(inputs) : nullptr;
    const float *row = x ? x + r * inputs : nullptr;
    const long count = row ? events_of(row, inputs, index, word) : events_of_bits(word, inputs, index);
    if (binary && padded) event_row<true, true>(row, index, count, w, bias, y + r * outputs, outputs);
    else if (binary) event_row<true>(row, index, count, w, bias, y + r * outputs, outputs);
    else event_row<false>(row, index, count, w, bias, y + r * outputs, outputs);
  }
}

#define PART 32  // rows that a thread takes at once
// Returns nonzero if memory runs out.
extern "C" int spiky_linear(const float *x, Word *bits, const float *w, const float *bias, float *y, long rows, long inputs,
                            long outputs, int binary, int threads) {
  int failed = 0;
#pragma omp parallel if (threads > 1) num_threads(threads) reduction(| : failed)
  {
    int *index = (int *)malloc(sizeof(int) * (inputs + SLACK));
    failed |= !index;
#pragma omp for
    for (long r = 0; r < rows; r += PART) {
      if (!index) continue;
      linear_rows(x ? x + r * inputs : nullptr, bits ? bits + r * WORDS(inputs) : nullptr, w, bias, y + r * outputs,
                  rows - r < PART ? rows - r : PART, inputs, outputs, binary, index);
    }
    free(index);
  }
  return failed;
}

// sum [width] += the rows of `block`, NV vectors wide, whose bits are set in `mask`; a `fresh` sum is taken to be 0. The width ends
// within the last vector.
template <int NV> static void add_rows(const float *block, Word mask, float *sum, long width, bool fresh) {
  F total[NV] = {};
  for (; mask; mask &= mask - 1) {
    const float *row = block + __builtin_ctzll(mask) * NV * WIDTH;
    for (int i = 0; i < NV; i++) total[i] = total[i] + load(row + i * WIDTH);
  }
  for (int i = 0; i < NV - 1; i++) store(sum + i * WIDTH, fresh ? total[i] : load(sum + i * WIDTH) + total[i]);
  float *tail = sum + (NV - 1) * WIDTH;
  const long left = width - (NV - 1) * WIDTH;
  if (left == WIDTH) store(tail, fresh ? total[NV - 1] : load(tail) + total[NV - 1]);
  else store_some(tail, fresh ? total[NV - 1] : load_some(tail, left) + total[NV - 1], left);
}

// Transposes 64 x 64 bits in place.
static void transpose(Word *a) {
  Word mask = 0x00000000ffffffffull;
  for (int step = 32; step; step >>= 1, mask ^= mask << step)
    for (int i = 0; i < 64; i = (i + step + 1) & ~step) {
      const Word swap = ((a[i] >> step) ^ a[i + step]) & mask;
      a[i] ^= swap << step;
      a[i + step] ^= swap;
    }
}

// Adds a block of n <= ROWS rows to the gradients of `width` outputs (NV vectors), which begin at `grad`, `grad_w` and
// `grad_bias`. A `fresh` grad_w is overwritten.
template <int NV>
static void add_block(const Word *bits, const float *grad, float *grad_w, float *grad_bias, long n, long width, long inputs,
                      long outputs, bool fresh) {
  alignas(64) float block[ROWS * NV * WIDTH];  // the gradient, padded to whole cache lines
  for (long i = 0; i < n; i++) {
    memcpy(block + i * NV * WIDTH, grad + i * outputs, sizeof(float) * width);
    memset(block + i * NV * WIDTH + width, 0, sizeof(float) * (NV * WIDTH - width));
  }
  for (long w = 0; w < WORDS(inputs); w++) {
    Word tile[64] = {};
    for (long i = 0; i < n; i++) tile[i] = bits[i * WORDS(inputs) + w];
    transpose(tile);
    for (long c = 0; c < 64 && w * 64 + c < inputs; c++)
      if (tile[c] || fresh) add_rows<NV>(block, tile[c], grad_w + (w * 64 + c) * outputs, width, fresh);
  }
  if (grad_bias) add_rows<NV>(block, n == 64 ? ~(Word)0 : ((Word)1 << n) - 1, grad_bias, width, false);
}

// Adds the weight gradient [inputs, outputs] and, if grad_bias is given, the bias gradient [outputs], from the events' bits. A
// `fresh` grad_w is overwritten.
static void add_gradient(const Word *bits, const float *grad, float *grad_w, float *grad_bias, long rows, long inputs,
                         long outputs, bool fresh = false) {
  const long vectors = (outputs + WIDTH - 1) / WIDTH, parts = (vectors + TILE - 1) / TILE;
  for (long r = 0; r < rows; r += ROWS)
    for (long part = 0, v = 0; part < parts; part++) {
      const long size = (vectors - v + parts - part - 1) / (parts - part), first = v * WIDTH;
      const long n = rows - r < ROWS ? rows - r : ROWS, width = outputs - first < size * WIDTH ? outputs - first : size * WIDTH;
      float *of_bias = grad_bias ? grad_bias + first : nullptr;
      switch (size) {
#define CASE(k) case k: add_block<k>(bits + r * WORDS(inputs), grad + r * outputs + first, grad_w + first, of_bias, n, width, inputs, outputs, fresh && r == 0); break;
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7)
#if WIDTH == 16
        CASE(8) CASE(9) CASE(10) CASE(11) CASE(12) CASE(13)
#endif
#undef CASE
      }
      v += size;
    }
}

// The weight gradient of an input that is not binary: [C, N] += x' g, in tiles of RC x NV vectors. A `fresh` sum is overwritten.
template <int RC, int NV>
static void outer_tile(const float *x, const float *g, float *sum, long rows, long C, long N, long c, long v, bool fresh) {
  F total[RC][NV] = {};
  for (long r = 0; r < rows; r++) {
    F row[NV];
    for (int i = 0; i < NV; i++) row[i] = load(g + r * N + (v + i) * WIDTH);
    for (int k = 0; k < RC; k++)
      for (int i = 0; i < NV; i++) total[k][i] = multiply_add(LANE(x[r * C + c + k]), row[i], total[k][i]);
  }
  for (int k = 0; k < RC; k++)
    for (int i = 0; i < NV; i++) {
      float *to = sum + (c + k) * N + (v + i) * WIDTH;
      store(to, fresh ? total[k][i] : load(to) + total[k][i]);
    }
}
static void outer_product(const float *x, const float *g, float *sum, long rows, long C, long N, bool fresh = false) {
  const long whole = N / WIDTH;
  long v = 0;
  for (; v + MV <= whole; v += MV) {
    long c = 0;
    for (; c + MR <= C; c += MR) outer_tile<MR, MV>(x, g, sum, rows, C, N, c, v, fresh);
    for (; c < C; c++) outer_tile<1, MV>(x, g, sum, rows, C, N, c, v, fresh);
  }
  for (; v < whole; v++)
    for (long c = 0; c < C; c++) outer_tile<1, 1>(x, g, sum, rows, C, N, c, v, fresh);
  for (long r = 0; r < rows; r++)
    for (long c = 0; c < C; c++)
      for (long n = whole * WIDTH; n < N; n++)
        sum[c * N + n] = (fresh && r == 0 ? 0.0f : sum[c * N + n]) + x[r * C + c] * g[r * N + n];
}

extern "C" void spiky_linear_gradient(const Word *bits, const float *grad, float *grad_w, float *grad_bias, long rows,
                                      long inputs, long outputs) {
  if (rows == 0) memset(grad_w, 0, sizeof(float) * inputs * outputs);
  if (grad_bias) memset(grad_bias, 0, sizeof(float) * outputs);
  add_gradient(bits, grad, grad_w, grad_bias, rows, inputs, outputs, true);
}

extern "C" void spiky_pack(const float *x, Word *bits, long rows, long inputs) {
  for (long r = 0; r < rows; r++)
    for (long first = 0; first < inputs; first += 64)
      *bits++ = bits_of(x + r * inputs + first, inputs - first < 64 ? inputs - first : 64);
}

extern "C" void spiky_unpack(const Word *bits, float *x, long rows, long inputs) {
  for (long r = 0; r < rows; r++)
    for (long i = 0; i < inputs; i++) *x++ = (float)(bits[r * WORDS(inputs) + i / 64] >> (i % 64) & 1);
}

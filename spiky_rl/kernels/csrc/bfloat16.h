// Products of a float32 gradient with weights in bfloat16, accumulated in float32. They need a CPU with AMX tiles or AVX-512
// dot products. y [rows, C] = g [rows, N] W', W input-major [C, N].
//
// Both operands are rounded to bfloat16 (8 bits of mantissa). The rounding would not change spikes, but it changes gradients.
#pragma once

typedef uint16_t Half;

#if defined(__AVX512BF16__)
#define HAS_BFLOAT16 1

#include <sys/syscall.h>
#include <unistd.h>

#define PADDED(n, to) (((n) + (to) - 1) / (to) * (to))

INLINE uint32_t rounded(float x) {  // nearest, ties to even
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// The first 32 of `count` numbers in bfloat16, as 16 pairs; 0 beyond them.
INLINE __m512 rounded_pairs(const float *x, long count) {
  const uint32_t some = count < 32 ? ((uint32_t)1 << count) - 1 : 0xffffffff;
  return (__m512)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps((__mmask16)(some >> 16), x + 16),
                                     _mm512_maskz_loadu_ps((__mmask16)some, x));
}

// Whether this process may use the tiles; Linux requires a request, once per process.
static bool tiles() {
#if defined(__AMX_BF16__)
  static const bool granted = syscall(SYS_arch_prctl, 0x1023, 18) == 0;
  return granted;
#else
  return false;
#endif
}

// Weights in the layout that the instructions read: pairs of neighbours in N side by side, [N / 2, C, 2], padded with zeros.
// Null if memory runs out.
static Half *pack_weights(const float *w, long C, long N) {
  const long width = PADDED(C, 32), depth = PADDED(N, 32);
  Half *packed = (Half *)aligned_alloc(64, sizeof(Half) * depth * width);
  if (!packed) return nullptr;
  for (long c = 0; c < width; c += 16)
    for (long n = 0; n < depth; n += 32) {
      __m512 block[16];
      for (long i = 0; i < 16; i++) block[i] = c + i < C ? rounded_pairs(w + (c + i) * N + n, N - n) : _mm512_setzero_ps();
      transpose_registers(block);
      for (long i = 0; i < 16; i++) _mm512_store_ps(packed + ((n / 2 + i) * width + c) * 2, block[i]);
    }
  return packed;
}

// The rows in bfloat16, padded with zeros to `height` rows of a multiple of 32 numbers.
static void pack_rows(const float *g, Half *packed, long rows, long N, long height) {
  const long depth = PADDED(N, 32);
  for (long r = 0; r < rows; r++)
    for (long n = 0; n < depth; n += 32) _mm512_storeu_ps(packed + r * depth + n, rounded_pairs(g + r * N + n, N - n));
  memset(packed + rows * depth, 0, sizeof(Half) * (height - rows) * depth);
}

#if defined(__AMX_BF16__)
struct alignas(64) Tiles {
  uint8_t palette, start, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
};

static void tile_product(const Half *a, const Half *b, float *y, long rows, long C, long depth, long width) {
  Tiles config = {};
  config.palette = 1;
  for (int i = 0; i < 8; i++) config.bytes[i] = 64, config.rows[i] = 16;
  _tile_loadconfig(&config);
  alignas(64) float block[32][32];
  for (long r = 0; r < rows; r += 32)
    for (long c = 0; c < C; c += 32) {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      for (long n = 0; n < depth; n += 32) {
        _tile_loadd(4, a + r * depth + n, depth * 2);
        _tile_loadd(5, a + (r + 16) * depth + n, depth * 2);
        _tile_loadd(6, b + (n / 2 * width + c) * 2, width * 4);
        _tile_loadd(7, b + (n / 2 * width + c + 16) * 2, width * 4);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
      _tile_stored(0, &block[0][0], 128);
      _tile_stored(1, &block[0][16], 128);
      _tile_stored(2, &block[16][0], 128);
      _tile_stored(3, &block[16][16], 128);
      const long height = rows - r < 32 ? rows - r : 32, size = sizeof(float) * (C - c < 32 ? C - c : 32);
      for (long i = 0; i < height; i++) memcpy(y + (r + i) * C + c, block[i], size);
    }
  _tile_release();
}
#endif

// y [R, 32] of rows of C numbers; c is the first column.
template <int R>
static void dot_tile(const Half *a, const Half *b, float *y, long C, long c, long N, long width) {
  const long depth = PADDED(N, 32);
  __m512 sum[R][2] = {};
  for (long p = 0; p < (N + 1) / 2; p++) {
    __m512bh weights[2];
    for (int j = 0; j < 2; j++) weights[j] = (__m512bh)_mm512_loadu_si512(b + (p * width + 16 * j) * 2);
    for (int i = 0; i < R; i++) {
      int pair;
      memcpy(&pair, a + i * depth + 2 * p, 4);
      for (int j = 0; j < 2; j++) sum[i][j] = _mm512_dpbf16_ps(sum[i][j], (__m512bh)_mm512_set1_epi32(pair), weights[j]);
    }
  }
  const uint32_t some = C - c < 32 ? ((uint32_t)1 << (C - c)) - 1 : 0xffffffff;
  for (int i = 0; i < R; i++)
    for (int j = 0; j < 2; j++) _mm512_mask_storeu_ps(y + i * C + 16 * j, (__mmask16)(some >> 16 * j), sum[i][j]);
}

// Takes all rows for 32 columns before the next columns, so that their weights stay in the first-level cache. Eight rows are 16 sums,
// enough to hide the latency of an instruction.
static void dot_product(const Half *a, const Half *b, float *y, long rows, long C, long N, long width) {
  for (long c = 0; c < C; c += 32)
    for (long r = 0; r < rows; r += 8)
      switch (LESS(rows - r, 8)) {
#define CASE(n) case n: dot_tile<n>(a + r * PADDED(N, 32), b + c * 2, y + r * C + c, C, c, N, width); break;
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#undef CASE
      }
}

// `scratch` holds PADDED(rows, 32) x PADDED(N, 32) halves, aligned to 64 bytes.
static void rounded_product(const float *g, const Half *packed, Half *scratch, float *y, long rows, long C, long N) {
  pack_rows(g, scratch, rows, N, tiles() ? PADDED(rows, 32) : rows);
#if defined(__AMX_BF16__)
  if (tiles()) return tile_product(scratch, packed, y, rows, C, PADDED(N, 32), PADDED(C, 32));
#endif
  dot_product(scratch, packed, y, rows, C, N, PADDED(C, 32));
}

#else
#define HAS_BFLOAT16 0
#endif

extern "C" int spiky_has_bfloat16() { return HAS_BFLOAT16; }

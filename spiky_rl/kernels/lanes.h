// Lanes: the type F that a neuron's text computes with, its comparisons M, and its functions.
//
// On a GPU a lane is a float and a thread is a lane. On a CPU F is a vector of the widest registers the machine has: plain
// scalar loops are not vectorised reliably (up to 20 times slower). exp, tanh and tan of vectors follow Cephes
// (S. Moshier, 1989): within 2 units in the last place.
#pragma once

#ifdef GPU

typedef float F;
typedef bool M;
#define WIDTH 1
#define METHOD __device__ __forceinline__
#define INLINE METHOD
#define LANE(x) (x)
INLINE F lane_select(M c, F x, F y) { return c ? x : y; }
INLINE F lane_heaviside(F x) { return x >= 0.0f ? 1.0f : 0.0f; }
INLINE F lane_max(F x, F y) { return x > y || x != x ? x : y; }
INLINE F lane_min(F x, F y) { return x < y || x != x ? x : y; }
INLINE F lane_abs(F x) { return fabsf(x); }
INLINE F lane_sqrt(F x) { return sqrtf(x); }
INLINE F lane_exp(F x) { return expf(x); }
INLINE F lane_tanh(F x) { return tanhf(x); }
INLINE F lane_tan(F x) { return tanf(x); }

#else

#include <math.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define WIDTH 16
#elif defined(__AVX__)
#define WIDTH 8
#else
#define WIDTH 4
#endif
typedef float F __attribute__((vector_size(4 * WIDTH)));
typedef int M __attribute__((vector_size(4 * WIDTH)));
#define METHOD inline __attribute__((always_inline))
#define INLINE static METHOD
#define LANE(x) (F{} + (float)(x))
INLINE F lane_select(M c, F x, F y) { return c ? x : y; }
INLINE F lane_heaviside(F x) { return x >= 0.0f ? LANE(1) : LANE(0); }
INLINE F lane_max(F x, F y) { return (x > y) | (x != x) ? x : y; }
INLINE F lane_min(F x, F y) { return (x < y) | (x != x) ? x : y; }
INLINE F lane_abs(F x) { return (F)((M)x & 0x7fffffff); }
INLINE F lane_sqrt(F x) {
  F y;
  for (int i = 0; i < WIDTH; i++) y[i] = __builtin_sqrtf(x[i]);
  return y;
}
INLINE F lane_round(F x) { return (x + 12582912.0f) - 12582912.0f; }  // nearest whole number, |x| < 2^22

INLINE F lane_exp(F x) {
  const F clamped = lane_min(lane_max(x, LANE(-87.33654f)), LANE(88.72283f));
  const F n = lane_round(clamped * 1.44269504088896341f);
  const F r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  F y = LANE(1.9875691500e-4f);
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = (y * (r * r) + r) + 1.0f;
  // 2^n in two factors, so that n = 128 does not overflow on the way
  const M whole = __builtin_convertvector(n, M), half = whole >> 1;
  y = y * (F)((half + 127) << 23) * (F)((whole - half + 127) << 23);
  y = x > 88.72283f ? LANE(INFINITY) : x < -103.9721f ? LANE(0) : y;
  return x != x ? x : y;
}

INLINE F lane_tanh(F x) {
  const F size = lane_abs(x), z = x * x;
  F y = LANE(-5.70498872745e-3f);
  y = y * z + 2.06390887954e-2f;
  y = y * z + -5.37397155531e-2f;
  y = y * z + 1.33314422036e-1f;
  y = y * z + -3.33332819422e-1f;
  y = y * z * x + x;
  const F large = 1.0f - 2.0f / (lane_exp(size + size) + 1.0f);
  return size < 0.625f ? y : x < 0.0f ? -large : large;
}

INLINE F lane_tan(F x) {
  const F n = lane_round(x * 0.636619772367581343f);  // quarter turns
  const F r = ((x - n * 1.5703125f) - n * 4.837512969970703125e-4f) - n * 7.54978995489188216e-8f;
  const F z = r * r;
  F y = LANE(9.38540185543e-3f);
  y = y * z + 3.11992232697e-3f;
  y = y * z + 2.44301354525e-2f;
  y = y * z + 5.34112807005e-2f;
  y = y * z + 1.33387994085e-1f;
  y = y * z + 3.33331568548e-1f;
  y = y * z * r + r;
  const M odd = (__builtin_convertvector(n, M) & 1) == 1;
  return odd ? -1.0f / y : y;
}

#endif

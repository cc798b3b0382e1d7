// Lanes: the type F that a neuron's text computes with, the type M of its comparisons, and its functions.
//
// On a GPU a lane is a float, and each thread runs one lane. On a CPU F is a vector as wide as the machine's registers, because
// compilers do not vectorise plain scalar loops reliably (up to 20 times slower). exp, tanh and tan of vectors follow Cephes
// (S. Moshier, 1989): their error is within 2 units in the last place, of tan for |x| < 10.
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
#define LANE(x) ((float)(x) - F{})  // minus, because it keeps -0, and -0 + 0 is 0

// Instructions by GCC's own names where it has them, because immintrin.h takes the compiler as long as a neuron's kernels.
#ifdef __has_builtin
#if WIDTH == 16 && __has_builtin(__builtin_ia32_vfmaddps512_mask) && __has_builtin(__builtin_ia32_minps512_mask)
#define FMA(a, b, c) __builtin_ia32_vfmaddps512_mask(a, b, c, -1, 4)
#define MINPS(a, b) __builtin_ia32_minps512_mask(a, b, F{}, -1, 4)
#define MAXPS(a, b) __builtin_ia32_maxps512_mask(a, b, F{}, -1, 4)
#define SCALEF(a, b) __builtin_ia32_scalefps512_mask(a, b, F{}, -1, 4)
#elif WIDTH == 8 && defined(__FMA__) && __has_builtin(__builtin_ia32_vfmaddps256)
#define FMA(a, b, c) __builtin_ia32_vfmaddps256(a, b, c)
#endif
#endif
#if !defined(FMA) && WIDTH == 16
#include <immintrin.h>
#define FMA(a, b, c) (F)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c))
#define MINPS(a, b) (F)_mm512_min_ps((__m512)(a), (__m512)(b))
#define MAXPS(a, b) (F)_mm512_max_ps((__m512)(a), (__m512)(b))
#define SCALEF(a, b) (F)_mm512_scalef_ps((__m512)(a), (__m512)(b))
#elif !defined(FMA) && WIDTH == 8 && defined(__FMA__)
#include <immintrin.h>
#define FMA(a, b, c) (F)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c))
#endif

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
// a b + c, with one rounding if the CPU has the instruction. It is explicit, because a compiler may contract some copies of a loop
// and not others (GCC does so on AMD's Zen 4), and then a row's bits depend on its neighbours.
INLINE F multiply_add(F a, F b, F c) {
#ifdef FMA
  return FMA(a, b, c);
#else
  return a * b + c;
#endif
}
INLINE F lane_round(F x) { return (x + 12582912.0f) - 12582912.0f; }  // nearest whole number, |x| < 2^22

INLINE F lane_exp(F x) {
#if WIDTH == 16
  // both instructions return their second argument if one argument is NaN
  const F clamped = MINPS(LANE(89), MAXPS(LANE(-104), x));
#else
  const F clamped = lane_min(lane_max(x, LANE(-103.9721f)), LANE(88.72283f));
#endif
  const F n = lane_round(clamped * 1.44269504088896341f);
  const F r = multiply_add(n, LANE(2.12194440e-4f), multiply_add(n, LANE(-0.693359375f), clamped));
  F y = LANE(1.9875691500e-4f);
  y = multiply_add(y, r, LANE(1.3981999507e-3f));
  y = multiply_add(y, r, LANE(8.3334519073e-3f));
  y = multiply_add(y, r, LANE(4.1665795894e-2f));
  y = multiply_add(y, r, LANE(1.6666665459e-1f));
  y = multiply_add(y, r, LANE(5.0000001201e-1f));
  y = multiply_add(y, r * r, r) + 1.0f;
#if WIDTH == 16
  return SCALEF(y, n);
#else
  // 2^n in two factors, so that n = 128 does not overflow on the way
  const M whole = __builtin_convertvector(n, M), half = whole >> 1;
  y = y * (F)((half + 127) << 23) * (F)((whole - half + 127) << 23);
  y = x > 88.72283f ? LANE(__builtin_inff()) : x < -103.9721f ? LANE(0) : y;
  return x != x ? x : y;
#endif
}

INLINE F lane_tanh(F x) {
  const F size = lane_abs(x), z = x * x;
  F y = LANE(-5.70498872745e-3f);
  y = multiply_add(y, z, LANE(2.06390887954e-2f));
  y = multiply_add(y, z, LANE(-5.37397155531e-2f));
  y = multiply_add(y, z, LANE(1.33314422036e-1f));
  y = multiply_add(y, z, LANE(-3.33332819422e-1f));
  y = multiply_add(y * z, x, x);
  const F large = 1.0f - 2.0f / (lane_exp(size + size) + 1.0f);
  return size < 0.625f ? y : x < 0.0f ? -large : large;
}

INLINE F lane_tan(F x) {
  const F n = lane_round(x * 0.636619772367581343f);  // quarter turns
  F r = multiply_add(n, LANE(-1.5703125f), x);
  r = multiply_add(n, LANE(-4.837512969970703125e-4f), r);
  r = multiply_add(n, LANE(-7.54978995489188216e-8f), r);
  const F z = r * r;
  F y = LANE(9.38540185543e-3f);
  y = multiply_add(y, z, LANE(3.11992232697e-3f));
  y = multiply_add(y, z, LANE(2.44301354525e-2f));
  y = multiply_add(y, z, LANE(5.34112807005e-2f));
  y = multiply_add(y, z, LANE(1.33387994085e-1f));
  y = multiply_add(y, z, LANE(3.33331568548e-1f));
  y = multiply_add(y * z, r, r);
  const M odd = (__builtin_convertvector(n, M) & 1) == 1;
  return odd ? -1.0f / y : y;
}

#endif

"""Templates of ``policy.c`` and ``policy.h``, and the functions that a policy may call; a file has only those it calls."""

FUNCTIONS = {
    "MULTIPLY_ADD": """\
// a * b + c, with one rounding if the hardware has fused multiply-add
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__FP_FAST_FMAF)
#define MULTIPLY_ADD(a, b, c) __builtin_fmaf(a, b, c)
#else
#define MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#endif
""",
    "add_rows": """\
// Adds a row of weights for every event, in the events' order; four rows at a time, so that a sum is loaded and stored less often.
static void add_rows(float *restrict sum, const float *restrict weight, const event_index *restrict event, int events,
                     int width) {
  int e = 0;
  for (; e + 4 <= events; e += 4) {
    const float *a = weight + event[e] * width, *b = weight + event[e + 1] * width;
    const float *c = weight + event[e + 2] * width, *d = weight + event[e + 3] * width;
    for (int n = 0; n < width; n++) sum[n] = sum[n] + a[n] + b[n] + c[n] + d[n];
  }
  for (; e < events; e++)
    for (int n = 0; n < width; n++) sum[n] += weight[event[e] * width + n];
}
""",
    "add_products": """\
// Adds x times a row of weights for every event, with fused multiply-adds where the hardware has them.
static void add_products(float *restrict sum, const float *restrict weight, const float *restrict x,
                         const event_index *restrict event, int events, int width) {
  int e = 0;
  for (; e + 4 <= events; e += 4) {
    const float *a = weight + event[e] * width, *b = weight + event[e + 1] * width;
    const float *c = weight + event[e + 2] * width, *d = weight + event[e + 3] * width;
    const float p = x[event[e]], q = x[event[e + 1]], r = x[event[e + 2]], t = x[event[e + 3]];
    for (int n = 0; n < width; n++)
      sum[n] = MULTIPLY_ADD(t, d[n], MULTIPLY_ADD(r, c[n], MULTIPLY_ADD(q, b[n], MULTIPLY_ADD(p, a[n], sum[n]))));
  }
  for (; e < events; e++)
    for (int n = 0; n < width; n++) sum[n] = MULTIPLY_ADD(x[event[e]], weight[event[e] * width + n], sum[n]);
}
""",
    "add_few_products": """\
// Adds x times a row of weights for every event; product and sum are rounded separately, as the backend does in narrow rows.
static void add_few_products(float *restrict sum, const float *restrict weight, const float *restrict x,
                             const event_index *restrict event, int events, int width) {
  for (int e = 0; e < events; e++)
    for (int n = 0; n < width; n++) sum[n] += x[event[e]] * weight[event[e] * width + n];
}
""",
    "observed": """\
// An observation after normalisation: 0 if it is not a number, and at most the limit.
static float observed(float x, float limit) { return x != x ? 0.0f : x > limit ? limit : x < -limit ? -limit : x; }
""",
    "keep_finite": """\
// Sets state that is not finite to 0, its value when an episode begins.
static void keep_finite(float *x, int count) {
  for (int i = 0; i < count; i++) x[i] = x[i] >= -3.4028235e38f && x[i] <= 3.4028235e38f ? x[i] : 0.0f;
}
""",
    "absolute": """\
static float absolute(float x) { return x < 0.0f ? -x : x; }
""",
    "larger": """\
static float larger(float x, float y) { return x > y || x != x ? x : y; }
""",
    "smaller": """\
static float smaller(float x, float y) { return x < y || x != x ? x : y; }
""",
    "nearest": """\
static float nearest(float x) { return rintf(x); }
""",
    "exponential": """\
// error of at most 2 units in the last place, as in the neurons' kernels (Cephes)
static float power_of_two(float y, int n) {
  const int half = n >> 1;
  union { int32_t i; float f; } low, high;
  low.i = (half + 127) << 23, high.i = (n - half + 127) << 23;
  return y * low.f * high.f;
}
static float exponential(float x) {
  const float clamped = x > 88.72283f ? 88.72283f : x < -103.9721f ? -103.9721f : x;
  const float n = (clamped * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
  const float r = MULTIPLY_ADD(n, 2.12194440e-4f, MULTIPLY_ADD(n, -0.693359375f, clamped));
  float y = 1.9875691500e-4f;
  if (x != x) return x;
  y = MULTIPLY_ADD(y, r, 1.3981999507e-3f);
  y = MULTIPLY_ADD(y, r, 8.3334519073e-3f);
  y = MULTIPLY_ADD(y, r, 4.1665795894e-2f);
  y = MULTIPLY_ADD(y, r, 1.6666665459e-1f);
  y = MULTIPLY_ADD(y, r, 5.0000001201e-1f);
  y = MULTIPLY_ADD(y, r * r, r) + 1.0f;
  if (x > 88.72283f) return INFINITY;
  return x < -103.9721f ? 0.0f : power_of_two(y, (int)n);
}
""",
    "hyperbolic_tangent": """\
static float hyperbolic_tangent(float x) {
  const float size = x < 0.0f ? -x : x, z = x * x;
  float y = -5.70498872745e-3f, large;
  if (size < 0.625f) {
    y = MULTIPLY_ADD(y, z, 2.06390887954e-2f);
    y = MULTIPLY_ADD(y, z, -5.37397155531e-2f);
    y = MULTIPLY_ADD(y, z, 1.33314422036e-1f);
    y = MULTIPLY_ADD(y, z, -3.33332819422e-1f);
    return MULTIPLY_ADD(y * z, x, x);
  }
  large = 1.0f - 2.0f / (exponential(size + size) + 1.0f);
  return x != x ? x : x < 0.0f ? -large : large;
}
""",
    "tangent": """\
static float tangent(float x) {  // |x| < 10
  const float limited = x > -1e4f && x < 1e4f ? x : 0.0f;
  const float n = (limited * 0.636619772367581343f + 12582912.0f) - 12582912.0f;
  float r = MULTIPLY_ADD(n, -1.5703125f, limited), y = 9.38540185543e-3f, z;
  r = MULTIPLY_ADD(n, -4.837512969970703125e-4f, r);
  r = MULTIPLY_ADD(n, -7.54978995489188216e-8f, r);
  z = r * r;
  y = MULTIPLY_ADD(y, z, 3.11992232697e-3f);
  y = MULTIPLY_ADD(y, z, 2.44301354525e-2f);
  y = MULTIPLY_ADD(y, z, 5.34112807005e-2f);
  y = MULTIPLY_ADD(y, z, 1.33387994085e-1f);
  y = MULTIPLY_ADD(y, z, 3.33331568548e-1f);
  y = MULTIPLY_ADD(y * z, r, r);
  return ((int)n & 1) ? -1.0f / y : y;
}
""",
    "square_root": """\
static float square_root(float x) { return sqrtf(x); }
""",
    "logistic": """\
static float logistic(float x) { return 1.0f / (1.0f + expf(-x)); }
""",
    "exponential_less_one": """\
static float exponential_less_one(float x) { return expm1f(x); }
""",
    "gaussian_unit": """\
static float gaussian_unit(float x) { return x * 0.5f * (1.0f + erff(x * 0.707106781186547524f)); }
""",
    "whole": """\
// nearest integer, halves away from 0, clamped to the limit; 0 for NaN
static int32_t whole(float x, float limit) {
  if (x != x) return 0;
  if (x > limit) x = limit;
  if (x < -limit) x = -limit;
  return (int32_t)(x + (x < 0.0f ? -0.5f : 0.5f));
}
""",
    "clamped": """\
static int32_t clamped(int32_t x, int32_t most) { return x > most ? most : x < -most ? -most : x; }
""",
    "scaled": """\
// x * 2^bits, rounded if bits is negative
static int32_t scaled(int32_t x, int bits) {
  const int32_t most = 268435456 >> (bits > 0 ? bits : 0);
  if (bits < 0) return (x + (1 << (-bits - 1))) >> -bits;
  return (x > most ? most : x < -most ? -most : x) * (1 << bits);
}
""",
    "multiplied": """\
// x * factor / 2^bits, rounded and clamped
static int32_t multiplied(int32_t x, int32_t factor, int bits, int32_t most) {
  const int64_t y = ((int64_t)x * factor + ((int64_t)1 << (bits - 1))) >> bits;
  return y > most ? most : y < -most ? -most : (int32_t)y;
}
""",
    "divided": """\
// x * 2^bits / y, towards 0, clamped; y > 0
static int32_t divided(int32_t x, int32_t y, int bits, int32_t most) {
  const int64_t z = (int64_t)x * ((int64_t)1 << bits) / y;
  return z > most ? most : z < -most ? -most : (int32_t)z;
}
""",
    "interpolated": """\
// the value of a table at position / 2^bits, linear between two entries
static int32_t interpolated(int32_t position, const int32_t *values, int bits) {
  const int32_t i = position >> bits, change = values[i + 1] - values[i];
  return values[i] + ((change * (position - (i << bits))) >> bits);
}
""",
    "add_narrow_rows": """\
// Adds a row of weights for every event; no sum can leave 16 bits. GCC makes faster vectors of it for any width than for a known one.
#if defined(__GNUC__) && !defined(__clang__)
__attribute__((noinline))
#endif
static void add_narrow_rows(int16_t *restrict sum, const int8_t *restrict weight, const event_index *restrict event,
                            int events, int width) {
  int e = 0;
  for (; e + 4 <= events; e += 4) {
    const int8_t *a = weight + event[e] * width, *b = weight + event[e + 1] * width;
    const int8_t *c = weight + event[e + 2] * width, *d = weight + event[e + 3] * width;
    for (int n = 0; n < width; n++) sum[n] = (int16_t)(sum[n] + a[n] + b[n] + c[n] + d[n]);
  }
  for (; e < events; e++)
    for (int n = 0; n < width; n++) sum[n] = (int16_t)(sum[n] + weight[event[e] * width + n]);
}
""",
    "add_wide_rows": """\
// Adds a row of weights for every event.
static void add_wide_rows(int32_t *restrict sum, const int8_t *restrict weight, const event_index *restrict event,
                          int events, int width) {
  for (int e = 0; e < events; e++)
    for (int n = 0; n < width; n++) sum[n] += weight[event[e] * width + n];
}
""",
    "add_multiples": """\
// Adds x times a row of weights for every event.
static void add_multiples(int32_t *restrict sum, const int8_t *restrict weight, const int16_t *restrict x,
                          const event_index *restrict event, int events, int width) {
  for (int e = 0; e < events; e++)
    for (int n = 0; n < width; n++) sum[n] += x[event[e]] * weight[event[e] * width + n];
}
""",
    "soft_plus": "static float soft_plus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }\n",
    "beta_mean": """\
// mean of a Beta distribution with the parameters soft_plus(x) + 1 and soft_plus(y) + 1
static float beta_mean(float x, float y) {
  const float a = soft_plus(x) + 1.0f, b = soft_plus(y) + 1.0f;
  return a / (a + b);
}
""",
}
DEPENDENCIES = {
    "beta_mean": ("soft_plus",),
    "add_products": ("MULTIPLY_ADD",),
    "exponential": ("MULTIPLY_ADD",),
    "tangent": ("MULTIPLY_ADD",),
    "hyperbolic_tangent": ("MULTIPLY_ADD", "exponential"),
}
"""Functions that a function calls."""
MATH_FUNCTIONS = {"nearest", "exponential", "square_root", "logistic", "exponential_less_one", "soft_plus", "gaussian_unit"}  # fmt: skip
"""Functions that need <math.h>."""
ARITHMETIC = """\
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__ > 0)
#error "policy.c needs IEEE 754 arithmetic: compile it without -ffast-math, -Ofast and -ffinite-math-only"
#endif
// products and sums are rounded separately, whatever the flags of the compiler
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif
// GCC's -O3 would interleave the rows of weights, which keeps it from using vectors
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 8
#pragma GCC optimize("no-loop-unroll-and-jam")
#endif
"""
ARITHMETIC_TEXT = (
    "Actions equal the live policy's if products and sums are rounded separately. policy.c disables contraction in GCC and Clang; disable"
    " it by flag in other compilers. The last bits differ if floats are computed in more than 32 bits (FLT_EVAL_METHOD other than 0)."
    " With -ffast-math the file does not compile."
)
"""The header's sentences on arithmetic."""
BOUNDS_TEXT = (
    "After normalisation, an observation that is not a number counts as 0, and observations beyond {bound} in size are clamped. State"
    " that is not finite after a step becomes 0, its value when an episode begins. So no observation breaks the steps after it."
)
"""The header's sentences on invalid observations."""

SOURCE = """\
// Generated by spiky_rl; {name}.h describes inputs and outputs.
#include "{name}.h"

{math}#include <string.h>

{arithmetic}
// assumptions: the struct has the declared size, int has at least 32 bits, and a right shift keeps the sign
typedef char {name}_fits[sizeof({name}_state) <= {NAME}_BYTES ? 1 : -1];
typedef char {name}_int_is_wide[sizeof(int) >= 4 && (-2 >> 1) == -1 ? 1 : -1];

typedef {index} event_index;  // a channel that sends an event
{helpers}
{constants}

void {name}_reset({name}_state *s) {{ memset(s, 0, sizeof *s); }}

void {name}_step({name}_state *s, const float *observation, float *action) {{
{body}
}}
"""
HEADER = """\
// Generated by spiky_rl.
{contract}{usage}
// Call {name}_reset when an episode begins. Between control steps, the struct holds the state of the policy.
// Memory: {bytes} bytes of RAM, the struct, and {flash} bytes of constants beside the code.
//
{notes}
//
{arithmetic}
#ifndef {NAME}_H
#define {NAME}_H

#include <stdint.h>

enum {{ {NAME}_OBSERVATIONS = {inputs}, {NAME}_ACTIONS = {outputs}, {NAME}_BYTES = {bytes} }};
{macros}
// All memory that the policy writes to. The caller owns it. Weights are constants.
// {carried} bytes of it are state, kept between control steps. Arrays marked (scratch) are used within one control step.
typedef struct {{
{fields}
}} {name}_state;

#ifdef __cplusplus
extern "C" {{
#endif
void {name}_reset({name}_state *s);
void {name}_step({name}_state *s, const float *observation, float *action);
#ifdef __cplusplus
}}
#endif

#endif
"""

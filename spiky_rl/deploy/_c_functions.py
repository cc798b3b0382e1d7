"""Templates of ``policy.c`` and ``policy.h``, and the functions that a policy may call; a file has only those it calls."""

MULTIPLY_ADD = """\
// a * b + c, with one rounding if the hardware has fused multiply-add
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__FP_FAST_FMAF)
#define MULTIPLY_ADD(a, b, c) __builtin_fmaf(a, b, c)
#else
#define MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#endif
"""
FUNCTIONS = {
    "absolute": "static float absolute(float x) { return x < 0.0f ? -x : x; }\n",
    "larger": "static float larger(float x, float y) { return x > y || x != x ? x : y; }\n",
    "smaller": "static float smaller(float x, float y) { return x < y || x != x ? x : y; }\n",
    "nearest": "static float nearest(float x) { return rintf(x); }\n",
    "exp": """\
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
    "tanh": """\
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
    "tan": """\
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
    "sqrt": "static float square_root(float x) { return sqrtf(x); }\n",
    "sigmoid": "static float logistic(float x) { return 1.0f / (1.0f + expf(-x)); }\n",
    "expm1": "static float exponential_less_one(float x) { return expm1f(x); }\n",
    "log1p": "static float logarithm_of_one_more(float x) { return log1pf(x); }\n",
    "trunc": "static float whole_part(float x) { return truncf(x); }\n",
    "floor": "static float next_below(float x) { return floorf(x); }\n",
    "ceil": "static float next_above(float x) { return ceilf(x); }\n",
    "gelu": "static float gaussian_unit(float x) { return x * 0.5f * (1.0f + erff(x * 0.707106781186547524f)); }\n",
    "gelu_by_tanh": """\
static float gaussian_unit_by_tanh(float x) {
  const float inner = 0.797884560802865356f * (x + 0.044715f * (x * x * x));
  return 0.5f * x * (1.0f + hyperbolic_tangent(inner));
}
""",
}
C_NAMES = {
    "sigmoid": "logistic",
    "exp": "exponential",
    "tanh": "hyperbolic_tangent",
    "tan": "tangent",
    "sqrt": "square_root",
    "expm1": "exponential_less_one",
    "log1p": "logarithm_of_one_more",
    "trunc": "whole_part",
    "floor": "next_below",
    "ceil": "next_above",
    "gelu": "gaussian_unit",
    "gelu_by_tanh": "gaussian_unit_by_tanh",
}
DEPENDENCIES = {"tanh": ("exp",), "gelu_by_tanh": ("tanh", "exp")}
MATH_FUNCTIONS = {
    "nearest",
    "exp",
    "tanh",
    "sqrt",
    "sigmoid",
    "expm1",
    "log1p",
    "trunc",
    "floor",
    "ceil",
    "gelu",
}
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
// Generated by spiky_rl; policy.h describes inputs and outputs.
#include "policy.h"

{math}#include <string.h>

{arithmetic}
{needed}
void policy_reset(policy_state *s) {{ memset(s, 0, sizeof *s); }}

void policy_step(policy_state *s, const float *observation, float *action) {{
{body}
}}
"""
HEADER = """\
// Generated by spiky_rl.
{usage}
// Call policy_reset when an episode begins. Between control steps, the struct holds the state of the policy.
//
{bounded}
//
{arithmetic}
#ifndef POLICY_H
#define POLICY_H

#include <stdint.h>

enum {{ POLICY_OBSERVATIONS = {inputs}, POLICY_ACTIONS = {outputs}, POLICY_FLOATS = {floats} }};

// All memory that the policy writes to, POLICY_FLOATS in all. The caller owns it. Weights are constants.
typedef struct {{
{arrays}}} policy_state;

#ifdef __cplusplus
extern "C" {{
#endif
void policy_reset(policy_state *s);
void policy_step(policy_state *s, const float *observation, float *action);
#ifdef __cplusplus
}}
#endif

#endif
"""

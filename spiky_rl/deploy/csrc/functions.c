// Helper functions of policies in C, of which a file has those that it calls. A paragraph is a function, after what only it needs; it
// calls functions above it.

// a * b + c, with one rounding if the hardware has fused multiply-add
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__FP_FAST_FMAF)
#define MULTIPLY_ADD(a, b, c) __builtin_fmaf(a, b, c)
#else
#define MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#endif

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

// Adds x times a row of weights for every event; product and sum are rounded separately, as the backend does in narrow rows.
static void add_few_products(float *restrict sum, const float *restrict weight, const float *restrict x,
                             const event_index *restrict event, int events, int width) {
  for (int e = 0; e < events; e++)
    for (int n = 0; n < width; n++) sum[n] += x[event[e]] * weight[event[e] * width + n];
}

// An observation after normalisation: 0 if it is not a number, and at most the limit.
static float observed(float x, float limit) { return x != x ? 0.0f : x > limit ? limit : x < -limit ? -limit : x; }

// Sets state that is not finite to 0, its value when an episode begins.
static void keep_finite(float *x, int count) {
  for (int i = 0; i < count; i++) x[i] = x[i] >= -3.4028235e38f && x[i] <= 3.4028235e38f ? x[i] : 0.0f;
}

static float absolute(float x) { return x < 0.0f ? -x : x; }

static float larger(float x, float y) { return x > y || x != x ? x : y; }

static float smaller(float x, float y) { return x < y || x != x ? x : y; }

static float nearest(float x) { return rintf(x); }

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

static float square_root(float x) { return sqrtf(x); }

static float logistic(float x) { return 1.0f / (1.0f + expf(-x)); }

static float exponential_less_one(float x) { return expm1f(x); }

static float gaussian_unit(float x) { return x * 0.5f * (1.0f + erff(x * 0.707106781186547524f)); }

// nearest integer, halves away from 0, clamped to the limit; 0 for NaN
static int32_t whole(float x, float limit) {
  if (x != x) return 0;
  if (x > limit) x = limit;
  if (x < -limit) x = -limit;
  return (int32_t)(x + (x < 0.0f ? -0.5f : 0.5f));
}

static int32_t clamped(int32_t x, int32_t most) { return x > most ? most : x < -most ? -most : x; }

// x * 2^bits, rounded if bits is negative
static int32_t scaled(int32_t x, int bits) {
  const int32_t most = 268435456 >> (bits > 0 ? bits : 0);
  if (bits < 0) return (x + (1 << (-bits - 1))) >> -bits;
  return (x > most ? most : x < -most ? -most : x) * (1 << bits);
}

// x * factor / 2^bits, rounded and clamped
static int32_t multiplied(int32_t x, int32_t factor, int bits, int32_t most) {
  const int64_t y = ((int64_t)x * factor + ((int64_t)1 << (bits - 1))) >> bits;
  return y > most ? most : y < -most ? -most : (int32_t)y;
}

// x * 2^bits / y, towards 0, clamped; y > 0
static int32_t divided(int32_t x, int32_t y, int bits, int32_t most) {
  const int64_t z = (int64_t)x * ((int64_t)1 << bits) / y;
  return z > most ? most : z < -most ? -most : (int32_t)z;
}

// the value of a table at position / 2^bits, linear between two entries
static int32_t interpolated(int32_t position, const int32_t *values, int bits) {
  const int32_t i = position >> bits, change = values[i + 1] - values[i];
  return values[i] + ((change * (position - (i << bits))) >> bits);
}

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

// Adds a row of weights for every event.
static void add_wide_rows(int32_t *restrict sum, const int8_t *restrict weight, const event_index *restrict event,
                          int events, int width) {
  for (int e = 0; e < events; e++)
    for (int n = 0; n < width; n++) sum[n] += weight[event[e] * width + n];
}

// Adds x times a row of weights for every event.
static void add_multiples(int32_t *restrict sum, const int8_t *restrict weight, const int16_t *restrict x,
                          const event_index *restrict event, int events, int width) {
  for (int e = 0; e < events; e++)
    for (int n = 0; n < width; n++) sum[n] += x[event[e]] * weight[event[e] * width + n];
}

static float soft_plus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

// mean of a Beta distribution with the parameters soft_plus(x) + 1 and soft_plus(y) + 1
static float beta_mean(float x, float y) {
  const float a = soft_plus(x) + 1.0f, b = soft_plus(y) + 1.0f;
  return a / (a + b);
}

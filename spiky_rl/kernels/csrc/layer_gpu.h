// The neurons of one layer of a stack on a GPU: forward with their mean activity, and the adjoint with a charge on activity.
//
// Thread i runs the lanes i, i + threads, i + 2 threads, ...; `threads` is a multiple of N, so they are one neuron in several samples.
// Its activity and its gradients are added up in registers, and one number per thread goes to memory instead of one per lane.
//
// REGISTER_STEPS is the number of inner steps of a call whose adjoint keeps everything in registers. If it is 0, the adjoint keeps
// the states before every step in `scratch`, which a thread uses again for its next lane.
//
// READERS is the number of outputs of the linear map that reads the layer, if the adjoint gets that map's gradient and weights and
// computes the gradient of the layer's output itself: a product this thin costs less than a tensor that is written and read again.
// It is 0 if the adjoint gets the gradient of the layer's output.
#pragma once

struct Times {
  long T, K, L;
  int constant, last_step;  // last_step: output and grad_output are [T, L], of the last inner step of every control step
  METHOD long current_at(long t, long k) const { return (constant ? t : t * K + k) * L; }
  METHOD long output_at(long t, long k) const { return (last_step ? t : t * K + k) * L; }
  METHOD bool is_sent(long k) const { return !last_step || k == K - 1; }
};

struct Before {
  const F *states;
  METHOD void operator()(int, F *s) const {
    for (int q = 0; q < STATES; q++) s[q] = states[q];
  }
};

INLINE F sign_of(F x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : 0.0f; }

INLINE void load_states(const float *state, long lane, long L, F *s) {
  for (int q = 0; q < STATES; q++) s[q] = state ? state[q * L + lane] : 0.0f;
}

INLINE void load_parameters(const float *params, long n, long N, F *p) {
  for (int q = 0; q < PARAMETERS; q++) p[q] = params[q * N + n];
}

#if READERS
struct alignas(16) Four {
  float x[4];
};

// The gradient of a lane's output: the product of the map's gradient `from` [READERS] and its weights `w` to this neuron.
INLINE F read_back(const float *__restrict__ from, const F *w) {
  F sum = 0.0f;
#if READERS % 4 == 0
#pragma unroll
  for (int f = 0; f < READERS; f += 4) {
    const Four four = ((const Four *)from)[f / 4];
    for (int i = 0; i < 4; i++) sum = fmaf(four.x[i], w[f + i], sum);
  }
#else
#pragma unroll
  for (int f = 0; f < READERS; f++) sum = fmaf(from[f], w[f], sum);
#endif
  return sum;
}
#endif

// `offset` [N] is added to the output, or null. `activity` [threads / N rows of `width`, N] gets the sum of absolute outputs times
// `share`, or is null. `last` is [STATES, L], or null.
extern "C" __global__ void spiky_layer_forward(const float *__restrict__ current, const float *__restrict__ state,
                                               const float *__restrict__ params, const float *__restrict__ keep,
                                               const float *__restrict__ offset, float *__restrict__ output,
                                               float *__restrict__ last, float *__restrict__ activity, long T, long K, long B,
                                               long N, int constant, int last_step, long threads, long width,
                                               float share UNIFORM_PARAMETERS) {
  const float uniforms[] = {UNIFORM_VALUES};
  const long thread = THREAD_LANE;
  if (thread >= threads) return;
  const Times times = {T, K, B * N, constant, last_step};
  const long n = thread % N;
  F p[SOME(PARAMETERS)], active = 0.0f;
  load_parameters(params, n, N, p);
  const F added = offset ? offset[n] : 0.0f;
  for (long lane = thread, b = thread / N; lane < times.L; lane += threads, b += threads / N) {
    F s[ALL], out;
    load_states(state, lane, times.L, s);
    for (long t = 0; t < T; t++) {
      const F factor = keep ? keep[t * B + b] : 1.0f;
      for (int q = 0; keep && q < STATES; q++) s[q] = s[q] * factor;
      for (long k = 0; k < K; k++) {
        whole_step(current[times.current_at(t, k) + lane], s, p, uniforms, out, Forget());
        active = active + lane_abs(out);
        if (times.is_sent(k)) output[times.output_at(t, k) + lane] = offset ? out + added : out;
      }
    }
    for (int q = 0; last && q < STATES; q++) last[q * times.L + lane] = s[q];
  }
  if (activity) activity[thread / N * width + n] = active * share;
}

// `charge` [N] times `share` is added to the gradient of the output at each event, with its sign, or is null. `sums`
// [1 + PARAMETERS, threads] gets the sums of grad_current and of the gradients of the parameters, or is null. `scratch` is
// [T K, STATES, threads]. With READERS, grad_output is [T, K, B, READERS] and `weight` [READERS, N].
extern "C" __global__ void spiky_layer_backward(const float *__restrict__ current, const float *__restrict__ state,
                                                const float *__restrict__ params, const float *__restrict__ keep,
                                                const float *__restrict__ grad_output, const float *__restrict__ weight,
                                                const float *__restrict__ grad_last, const float *__restrict__ charge, float *__restrict__ grad_current,
                                                float *__restrict__ grad_state, float *__restrict__ sums,
                                                float *__restrict__ scratch, long T, long K, long B, long N, int constant,
                                                int last_step, long threads, float share UNIFORM_PARAMETERS) {
  const float uniforms[] = {UNIFORM_VALUES};
  const long thread = THREAD_LANE;
  if (thread >= threads) return;
  const Times times = {T, K, B * N, constant, last_step};
  const long n = thread % N;
  F p[SOME(PARAMETERS)], gp[SOME(PARAMETERS)] = {}, total = 0.0f;
  load_parameters(params, n, N, p);
  const F price = charge ? charge[n] * share : 0.0f;
#if READERS
  F w[READERS];
#pragma unroll
  for (int f = 0; f < READERS; f++) w[f] = weight[f * N + n];
#endif
  for (long lane = thread, b = thread / N; lane < times.L; lane += threads, b += threads / N) {
    F s[ALL], g[SOME(STATES)], out;
    load_states(state, lane, times.L, s);
    load_states(grad_last, lane, times.L, g);
#if REGISTER_STEPS
    const F factor = keep ? keep[b] : 1.0f;
    F path[REGISTER_STEPS][SOME(STATES)], drive[REGISTER_STEPS], sign[REGISTER_STEPS];
    for (int q = 0; keep && q < STATES; q++) s[q] = s[q] * factor;
#pragma unroll
    for (int k = 0; k < REGISTER_STEPS; k++) {
      drive[k] = constant && k ? drive[0] : current[k * times.L + lane];
      for (int q = 0; q < STATES; q++) path[k][q] = s[q];
      whole_step(drive[k], s, p, uniforms, out, Forget());
      sign[k] = sign_of(out);
    }
    F gi = 0.0f;
#pragma unroll
    for (int k = REGISTER_STEPS - 1; k >= 0; k--) {
#if READERS
      F go = read_back(grad_output + (k * B + b) * READERS, w);
#else
      F go = grad_output && times.is_sent(k) ? grad_output[times.output_at(0, k) + lane] : 0.0f;
#endif
      if (charge) go = go + price * sign[k];
      whole_step_adjoint(drive[k], Before{path[k]}, p, uniforms, go, g, gp, gi);
      if (constant && k) continue;
      grad_current[k * times.L + lane] = gi;
      total = total + gi;
      gi = 0.0f;
    }
    for (int q = 0; keep && q < STATES; q++) g[q] = g[q] * factor;
#else
    for (long t = 0, step = 0; t < T; t++) {
      const F factor = keep ? keep[t * B + b] : 1.0f;
      for (int q = 0; keep && q < STATES; q++) s[q] = s[q] * factor;
      for (long k = 0; k < K; k++, step++) {
        for (int q = 0; q < STATES; q++) scratch[(step * STATES + q) * threads + thread] = s[q];
        whole_step(current[times.current_at(t, k) + lane], s, p, uniforms, out, Forget());
      }
    }
    for (long t = T - 1; t >= 0; t--) {
      F gi = 0.0f;
      for (long k = K - 1; k >= 0; k--) {
        const F drive = current[times.current_at(t, k) + lane];
        F go = grad_output && times.is_sent(k) ? grad_output[times.output_at(t, k) + lane] : 0.0f, before[SOME(STATES)];
        for (int q = 0; q < STATES; q++) before[q] = s[q] = scratch[((t * K + k) * STATES + q) * threads + thread];
        if (charge) {
          whole_step(drive, s, p, uniforms, out, Forget());
          go = go + price * sign_of(out);
        }
        whole_step_adjoint(drive, Before{before}, p, uniforms, go, g, gp, gi);
        if (constant && k) continue;
        grad_current[times.current_at(t, k) + lane] = gi;
        total = total + gi;
        gi = 0.0f;
      }
      const F factor = keep ? keep[t * B + b] : 1.0f;
      for (int q = 0; keep && q < STATES; q++) g[q] = g[q] * factor;
    }
#endif
    for (int q = 0; grad_state && q < STATES; q++) grad_state[q * times.L + lane] = g[q];
  }
  if (!sums) return;
  sums[thread] = total;
  for (int q = 0; q < PARAMETERS; q++) sums[(1 + q) * threads + thread] = gp[q];
}

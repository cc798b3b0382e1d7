// The time loop of a recurrent layer on a GPU: one block of threads per row of the batch, all inner steps in one launch.
//
// It computes the same as recurrent.h, with the same bits if the output is binary, because events are added in ascending order.
// The outputs of the last D inner steps are in shared memory, as bits if they are binary. A thread runs the neurons n,
// n + blockDim.x, ... with their states in `now`.
#pragma once

extern __shared__ float shared_room[];

struct Sent {
  long N, delays;
  int binary;
  METHOD long size() const { return binary ? (N + 31) / 32 : N; }
  METHOD float *slot(long step) const { return shared_room + (step + delays) % (delays + 1) * size(); }
  METHOD void clear(long step) const {
    for (long i = threadIdx.x; i < size(); i += blockDim.x) slot(step)[i] = 0.0f;
  }
  METHOD void write(long step, long n, float z) const {
    if (!binary) slot(step)[n] = z;
    else if (z != 0.0f) atomicOr((unsigned *)slot(step) + n / 32, 1u << n % 32);
  }
  METHOD float arriving(long step, long n, const float *__restrict__ synapses) const {
    float sum = 0.0f;
    for (long d = 1; d <= delays; d++) {
      const float *from = slot(step - d), *block = synapses + (d - 1) * N * N + n;
      if (!binary)
        for (long c = 0; c < N; c++) sum = sum + from[c] * block[c * N];
      else
        for (long w = 0; w < size(); w++)
          for (unsigned word = ((const unsigned *)from)[w]; word; word &= word - 1)
            sum = sum + block[(w * 32 + __ffs(word) - 1) * N];
    }
    return sum;
  }
};

struct Row {
  const float *current, *state, *params, *keep, *synapses, *uniforms;
  float *now;     // [STATES + filtered, rows, N]
  float *output;  // [T K, rows, N]
  long T, K, B, N, b;  // b: index of the row in the batch of B
  long rows, row;      // number of rows in `now`, `output` and scratch, and the row's index among them
  int constant, filtered;
  float decay;
  Sent sent;
  METHOD long at(long step, long n) const { return (step * rows + row) * N + n; }
  METHOD long input_at(long step, long n) const { return (step * B + b) * N + n; }
  METHOD float factor(long t) const { return keep ? keep[t * B + b] : 1.0f; }
  METHOD void parameters(long n, F *p) const {
    for (int q = 0; q < PARAMETERS; q++) p[q] = params[q * N + n];
  }
};

#define NEURONS(n, N) for (long n = threadIdx.x; n < (N); n += blockDim.x)

// Runs all inner steps. It calls `seen(step, n, drive, before, after)` with the states of every neuron; `before` is zero where an
// episode begins.
template <class Seen> METHOD void row_forward(const Row &r, const Seen &seen) {
  const long D = r.sent.delays;
  for (long step = -D; step <= 0; step++) r.sent.clear(step);
  __syncthreads();
  NEURONS(n, r.N) {
    for (int q = 0; q < STATES; q++) r.now[r.at(q, n)] = r.state ? r.state[r.input_at(q, n)] : 0.0f;
    if (r.filtered) r.now[r.at(STATES, n)] = r.state ? r.state[r.input_at(STATES + D, n)] : 0.0f;
    for (long d = 1; r.state && d <= D; d++) r.sent.write(-d, n, r.state[r.input_at(STATES + d - 1, n)]);
  }
  __syncthreads();
  for (long t = 0, step = 0; t < r.T; t++)
    for (long k = 0; k < r.K; k++, step++) {
      const float factor = k == 0 ? r.factor(t) : 1.0f;
      if (factor == 0.0f) {
        for (long d = 1; d <= D; d++) r.sent.clear(step - d);
        __syncthreads();
      }
      NEURONS(n, r.N) {
        float arrived = r.sent.arriving(step, n, r.synapses);
        if (r.filtered) {
          float &synapse = r.now[r.at(STATES, n)];
          arrived = synapse = r.decay * (synapse * factor) + arrived;
        }
        F before[SOME(STATES)], s[ALL], p[SOME(PARAMETERS)], out;
        for (int q = 0; q < STATES; q++) s[q] = before[q] = r.now[r.at(q, n)] * factor;
        r.parameters(n, p);
        const F drive = r.current[r.input_at(r.constant ? t : step, n)] + arrived;
        whole_step(drive, s, p, r.uniforms, out, Forget());
        for (int q = 0; q < STATES; q++) r.now[r.at(q, n)] = s[q];
        r.output[r.at(step, n)] = out;
        seen(step, n, drive, before, s);
      }
      __syncthreads();
      NEURONS(n, r.N) r.sent.write(step, n, r.output[r.at(step, n)]);
      r.sent.clear(step + 1);
      __syncthreads();
    }
}

struct Trace {
  float *to;
  const Row &r;
  METHOD void operator()(long step, long n, F, const F *, const F *after) const {
    if (to) to[r.at(step, n)] = after[0];
  }
};

// `last` is [STATES + delays + filtered, B, N], or null; `trace` as output, or null.
extern "C" __global__ void spiky_recurrent_forward(const float *__restrict__ current, const float *__restrict__ state,
                                                   const float *__restrict__ params, const float *__restrict__ keep,
                                                   const float *__restrict__ synapses, float *output, float *now,
                                                   float *last, float *trace, long T, long K, long B, long N, int constant,
                                                   long delays, int filtered, float decay, int binary UNIFORM_PARAMETERS) {
  const float uniforms[] = {UNIFORM_VALUES};
  const long b = blockIdx.x;
  const Row r = {current, state, params, keep, synapses, uniforms, now, output, T, K, B, N, b, B, b, constant, filtered, decay,
                 {N, delays, binary}};
  row_forward(r, Trace{trace, r});
  if (!last) return;
  NEURONS(n, N) {
    for (int q = 0; q < STATES; q++) last[r.at(q, n)] = now[r.at(q, n)];
    if (filtered) last[r.at(STATES + delays, n)] = now[r.at(STATES, n)];
    for (long d = 1; d <= delays; d++) {
      const float *from = r.sent.slot(T * K - d);
      const float z = binary ? (float)(((const unsigned *)from)[n / 32] >> n % 32 & 1) : from[n];
      last[r.at(STATES + d - 1, n)] = z;
    }
  }
}

// Scratch memory of `rows` rows.
struct Scratch {
  float *path;        // [T K, STATES, rows, N]: the states before every step
  float *grad_drive;  // [T K, rows, N]: holds the drive first
  float *arrived;     // [T K, rows, N]: the gradient of I
  float *of_output;   // [D + T K, rows, N]: the gradient of the output, from D steps before the first on
};

struct Keep {
  Scratch to;
  const Row &r;
  METHOD void operator()(long step, long n, F drive, const F *before, const F *) const {
    for (int q = 0; q < STATES; q++) to.path[r.at(step * STATES + q, n)] = before[q];
    to.grad_drive[r.at(step, n)] = drive;
  }
};

struct Held {
  const F *from;
  METHOD void operator()(int, F *s) const {
    for (int q = 0; q < STATES; q++) s[q] = from[q];
  }
};

// Runs rows `first` to `first + rows`. `grad_now` [STATES + filtered, rows, N] holds the gradients of the last states on entry, of
// the first states on return.
extern "C" __global__ void spiky_recurrent_backward(const float *__restrict__ current, const float *__restrict__ state,
                                                    const float *__restrict__ params, const float *__restrict__ keep,
                                                    const float *__restrict__ synapses,
                                                    const float *__restrict__ turned, float *output, float *now, float *path, float *grad_drive,
                                                    float *arrived, float *of_output, float *grad_now, float *grad_params,
                                                    long T, long K, long B, long N, int constant, long delays, int filtered,
                                                    float decay, int binary, int cut, long first,
                                                    long rows UNIFORM_PARAMETERS) {
  const float uniforms[] = {UNIFORM_VALUES};
  const long row = blockIdx.x;
  const Row r = {current, state, params, keep, synapses, uniforms, now, output, T, K, B, N, first + row, rows, row, constant,
                 filtered, decay, {N, delays, binary}};
  row_forward(r, Keep{{path, grad_drive, arrived, of_output}, r});
  float *vectors = shared_room;  // two of N, because the one of the previous step is still being read
  long reset = T;  // the last control step up to t that begins with a reset, or -1
  for (long t = T - 1, step = T * K - 1; t >= 0; t--) {
    if (reset > t)
      for (reset = t; reset >= 0 && r.factor(reset) != 0.0f; reset--) {}
    const long since = reset < 0 ? -delays : reset * K;
    for (long k = K - 1; k >= 0; k--, step--) {
      const float factor = k == 0 ? r.factor(t) : 1.0f;
      float *vector = vectors + step % 2 * N;
      NEURONS(n, N) {
        F before[SOME(STATES)], g[SOME(STATES)], p[SOME(PARAMETERS)], gp[SOME(PARAMETERS)] = {}, gi = 0.0f;
        for (int q = 0; q < STATES; q++)
          before[q] = path[r.at(step * STATES + q, n)], g[q] = grad_now[r.at(q, n)];
        r.parameters(n, p);
        whole_step_adjoint(grad_drive[r.at(step, n)], Held{before}, p, uniforms, of_output[r.at(delays + step, n)], g, gp, gi);
        for (int q = 0; q < STATES; q++) grad_now[r.at(q, n)] = g[q] * factor;
        for (int q = 0; q < PARAMETERS; q++) grad_params[r.at(q, n)] += gp[q];
        grad_drive[r.at(step, n)] = gi;
        if (filtered) {
          gi = gi + grad_now[r.at(STATES, n)];
          grad_now[r.at(STATES, n)] = decay * gi * factor;
        }
        arrived[r.at(step, n)] = vector[n] = gi;
      }
      __syncthreads();
      for (long d = 1; d <= delays && step - d >= since; d++) {
        if (cut && step >= d) continue;
        NEURONS(c, N) {
          float sum = 0.0f;
          for (long n = 0; n < N; n++) sum = sum + vector[n] * turned[n * delays * N + (d - 1) * N + c];
          of_output[r.at(delays + step - d, c)] += sum;
        }
      }
    }
  }
}

// The time loop of a recurrent layer, forward and adjoint, for a few rows of the batch at a time.
//
//   I_k = decay I_(k-1) + sum_d W_d z_(k-d),  d = 1 .. D;   z_k = neuron(x_k + I_k)
//
// The forward pass saves only its inputs. The adjoint runs the rows forward again, stores the state before every step and the
// spikes as bits, and walks back. Outputs from before a row's episode count as 0.
#pragma once

struct IntraLayer {
  const float *weight;  // [D N, N], input-major; null if the layer is not recurrent
  const float *panels;  // the result of `panels_of` for it
  float *grad_weight;   // as weight
  float *trace;         // [T K, B, N]: first state after every step, or null
  long delays;          // D
  float decay;          // of I per inner step, if filtered: then I is one more state
  int filtered;
  int binary;  // the layer's output is 0 or 1
  int cut;     // the gradient stops at the output that feeds back
};

// A thread's memory of the rows.
struct Recent {
  Word *events;  // [D + T K, R, words]: binary output, from D steps before the first on
  float *sent;   // [D + T K, R, N]: graded output, the same
  int *since;    // [T, R]: the inner step at which the episode of a control step began; -D if before this call
  int *index;    // [D N], and SLACK
  float *state;  // [states, R, N]
  float *synapse, *arriving, *output;  // [R, N]: I, the part of I that is new in this step, z
  float *gathered;                     // [R, D N]
  float *path;        // adjoint only: [T K + 1, states, R, N], the states before every step, and after the last
  float *grad_state;  // adjoint only: [states, R, N]
  float *early;       // adjoint only: [D, R, N], gradient of the outputs before the first step, earliest first
};

struct Loop {
  IntraLayer within;
  void (*forward)(const Job *);
  int (*backward)(const Job *);
  Job step;            // one step of R rows
  const float *keep;   // [T, B] from the first row on, or null
  const float *state;  // [states + D + filtered, B, N] from the first row on; null for the zero state
  long T, K, B, R, N, states;
  Recent m;
};

INLINE bool loop_recalls(const Loop &l, long t, long step, long r, long d) { return step - d >= l.m.since[t * l.R + r]; }

static void loop_remember(const Loop &l, long step, const float *output) {
  const long N = l.N, words = WORDS(N), at = (l.within.delays + step) * l.R;
  for (long r = 0; r < l.R; r++) {
    if (!l.within.binary) memcpy(l.m.sent + (at + r) * N, output + r * N, sizeof(float) * N);
    else
      for (long w = 0; w < words; w++)
        l.m.events[(at + r) * words + w] = bits_of(output + r * N + w * 64, N - w * 64 < 64 ? N - w * 64 : 64);
  }
}

static void loop_begin(const Loop &l) {
  const long size = l.R * l.N, D = l.within.delays;
  for (long t = 0; t < l.T; t++)
    for (long r = 0; r < l.R; r++) {
      const bool begins = l.keep && l.keep[t * l.B + r] == 0.0f;
      l.m.since[t * l.R + r] = begins ? (int)(t * l.K) : t ? l.m.since[(t - 1) * l.R + r] : (int)-D;
    }
  memset(l.m.state, 0, sizeof(float) * l.states * size);
  memset(l.m.synapse, 0, sizeof(float) * size);
  memset(l.m.output, 0, sizeof(float) * size);
  for (long q = 0; l.state && q < l.states; q++)
    memcpy(l.m.state + q * size, l.state + q * l.B * l.N, sizeof(float) * size);
  for (long d = 1; d <= D; d++)
    loop_remember(l, -d, l.state ? l.state + (l.states + d - 1) * l.B * l.N : l.m.output);
  if (l.state && l.within.filtered)
    memcpy(l.m.synapse, l.state + (l.states + D) * l.B * l.N, sizeof(float) * size);
}

// Copies a row's output of `d` steps before, as floats; 0 if it is from an earlier episode.
static void loop_recall(const Loop &l, long t, long step, long r, long d, float *to) {
  if (loop_recalls(l, t, step, r, d))
    memcpy(to, l.m.sent + ((l.within.delays + step - d) * l.R + r) * l.N, sizeof(float) * l.N);
  else memset(to, 0, sizeof(float) * l.N);
}

// Computes the feedback that arrives in a step, [R, N].
static void loop_arriving(const Loop &l, long t, long step, float *to) {
  const long N = l.N, D = l.within.delays, words = WORDS(N);
  for (long r = 0; r < l.R; r++) {
    long count = 0;
    for (long d = 1; d <= D; d++) {
      if (!l.within.binary) loop_recall(l, t, step, r, d, l.m.gathered + (r * D + d - 1) * N);
      else if (loop_recalls(l, t, step, r, d)) {
        const Word *bits = l.m.events + ((D + step - d) * l.R + r) * words;
        for (long w = 0; w < words; w++) count = append(l.m.index, count, bits[w], (d - 1) * N + w * 64);
      }
    }
    if (l.within.binary) event_row<true>(nullptr, l.m.index, count, l.within.weight, nullptr, to + r * N, N);
  }
  if (!l.within.binary) linear_rows(l.m.gathered, nullptr, l.within.weight, nullptr, to, l.R, D * N, N, 0, l.m.index);
}

// Computes the drive of the neurons in a step: `current` [R, N] plus the feedback.
static void loop_drive(const Loop &l, long t, long k, const float *current, float *drive) {
  const long size = l.R * l.N;
  const float *__restrict__ arrived = l.m.arriving;
  loop_arriving(l, t, t * l.K + k, l.m.arriving);
  if (l.within.filtered) {
    for (long r = 0; k == 0 && l.keep && r < l.R; r++)
      for (long n = 0; n < l.N; n++) l.m.synapse[r * l.N + n] *= l.keep[t * l.B + r];
    for (long i = 0; i < size; i++) l.m.synapse[i] = l.within.decay * l.m.synapse[i] + l.m.arriving[i];
    arrived = l.m.synapse;
  }
  for (long i = 0; i < size; i++) drive[i] = current[i] + arrived[i];
}

// Runs all steps: computes `drive` from `current` (they may share memory) and `output`. Strides are floats from one step to the
// next. If `current` is null, `drive` is given. If `path` is given, it receives the states before every step. `last` is as state,
// or null.
static void loop_forward(const Loop &l, const float *current, long current_stride, bool constant, float *drive,
                         long drive_stride, float *output, long output_stride, float *path, float *last) {
  const long size = l.R * l.N, D = l.within.delays;
  loop_begin(l);
  if (path) memcpy(path, l.m.state, sizeof(float) * l.states * size);
  for (long t = 0, step = 0; t < l.T; t++)
    for (long k = 0; k < l.K; k++, step++) {
      float *to = drive + step * drive_stride, *out = output + step * output_stride;
      if (current) loop_drive(l, t, k, current + (constant ? t : step) * current_stride, to);
      Job job = l.step;
      job.keep = k == 0 && l.keep ? l.keep + t * l.B : nullptr;
      job.current = to, job.output = out;
      job.state = path ? path + step * l.states * size : l.m.state;
      job.last = path ? path + (step + 1) * l.states * size : l.m.state;
      job.trace = l.within.trace ? l.within.trace + step * l.B * l.N : nullptr;
      l.forward(&job);
      loop_remember(l, step, out);
    }
  if (!last) return;
  const long steps = l.T * l.K, stride = l.B * l.N;
  for (long q = 0; q < l.states; q++) memcpy(last + q * stride, l.m.state + q * size, sizeof(float) * size);
  for (long d = 1; d <= D; d++)
    for (long r = 0; r < l.R; r++) {
      float *to = last + (l.states + d - 1) * stride + r * l.N;
      const long at = (D + steps - d) * l.R + r;
      const bool recalls = steps - d >= l.m.since[(l.T - 1) * l.R + r];
      for (long n = 0; n < l.N; n++) {
        const float z = l.within.binary ? (float)(l.m.events[at * WORDS(l.N) + n / 64] >> (n % 64) & 1) : l.m.sent[at * l.N + n];
        to[n] = recalls ? z : 0.0f;
      }
    }
  if (l.within.filtered) memcpy(last + (l.states + D) * stride, l.m.synapse, sizeof(float) * size);
}

// Adds the gradient [R, D N] of the delayed outputs that a step received to `grad_output` [T K, R, N] and to `early`.
static void loop_return(const Loop &l, long t, long step, const float *grad, float *grad_output) {
  const long N = l.N, D = l.within.delays;
  for (long d = 1; d <= D; d++)
    for (long r = 0; r < l.R; r++) {
      if (!loop_recalls(l, t, step, r, d) || (l.within.cut && step >= d)) continue;
      const float *from = grad + (r * D + d - 1) * N;
      float *to = (step >= d ? grad_output + (step - d) * l.R * N : l.m.early + (D + step - d) * l.R * N) + r * N;
      for (long n = 0; n < N; n++) to[n] += from[n];
    }
}

// The adjoint, to be called after `loop_forward` with `path` and the same `drive`. It adds to `grad_output` [T K, R, N] and fills
// `grad_drive`, the gradient of the current, and `grad_synapse`, the gradient of I, of the same size. `lanes` is work memory for
// [parameters, R, N]. Returns nonzero if memory runs out.
static int loop_backward(const Loop &l, const float *drive, long drive_stride, float *grad_output, const float *grad_last, float *grad_state,
                         float *grad_drive, float *grad_synapse, float *grad_params, long parameters, float *lanes) {
  const long N = l.N, size = l.R * N, D = l.within.delays, steps = l.T * l.K, stride = l.B * N;
  float *carried = l.m.synapse;
  memset(l.m.early, 0, sizeof(float) * D * size);
  memset(l.m.grad_state, 0, sizeof(float) * l.states * size);
  memset(carried, 0, sizeof(float) * size);
  if (grad_last) {
    for (long q = 0; q < l.states; q++) memcpy(l.m.grad_state + q * size, grad_last + q * stride, sizeof(float) * size);
    for (long d = 1; d <= D; d++)
      for (long r = 0; r < l.R; r++)
        memcpy(l.m.gathered + (r * D + d - 1) * N, grad_last + (l.states + d - 1) * stride + r * N, sizeof(float) * N);
    loop_return(l, l.T - 1, steps, l.m.gathered, grad_output);
    if (l.within.filtered) memcpy(carried, grad_last + (l.states + D) * stride, sizeof(float) * size);
  }
  for (long t = l.T - 1, step = steps - 1; t >= 0; t--)
    for (long k = l.K - 1; k >= 0; k--, step--) {
      Job job = l.step;
      job.keep = k == 0 && l.keep ? l.keep + t * l.B : nullptr;
      job.current = drive + step * drive_stride, job.state = l.m.path + step * l.states * size;
      job.grad_output = grad_output + step * size, job.grad_current = grad_drive + step * size;
      job.grad_last = job.grad_state = l.m.grad_state;
      job.grad_params = grad_params ? lanes : nullptr;
      if (l.backward(&job)) return 1;
      for (long q = 0; grad_params && q < parameters; q++)
        for (long i = 0; i < size; i++) grad_params[q * N + i % N] += lanes[q * size + i];
      float *arrived = grad_synapse + step * size;
      memcpy(arrived, grad_drive + step * size, sizeof(float) * size);
      if (l.within.filtered)
        for (long i = 0; i < size; i++) {
          arrived[i] += carried[i];
          carried[i] = l.within.decay * arrived[i] * (job.keep ? job.keep[i / N] : 1.0f);
        }
      returned_rows(arrived, l.within.panels, l.m.gathered, l.R, D * N, N);
      loop_return(l, t, step, l.m.gathered, grad_output);
    }
  if (!grad_state) return 0;
  for (long q = 0; q < l.states; q++) memcpy(grad_state + q * stride, l.m.grad_state + q * size, sizeof(float) * size);
  for (long d = 1; d <= D; d++)
    memcpy(grad_state + (l.states + d - 1) * stride, l.m.early + (D - d) * size, sizeof(float) * size);
  if (l.within.filtered) memcpy(grad_state + (l.states + D) * stride, carried, sizeof(float) * size);
  return 0;
}

// Adds the gradient of the recurrent weights; `bits` [T K, R, words] and `numbers` [T K, R, N] are work memory.
static void loop_weight_gradient(const Loop &l, const float *grad_synapse, Word *bits, float *numbers, float *grad_weight) {
  const long N = l.N, D = l.within.delays, words = WORDS(N), rows = l.T * l.K * l.R;
  for (long d = 1; d <= D; d++) {
    float *to = grad_weight + (d - 1) * N * N;
    for (long t = 0, step = 0, row = 0; t < l.T; t++)
      for (long k = 0; k < l.K; k++, step++)
        for (long r = 0; r < l.R; r++, row++) {
          const long at = ((D + step - d) * l.R + r) * words;
          if (!l.within.binary) loop_recall(l, t, step, r, d, numbers + row * N);
          else if (loop_recalls(l, t, step, r, d)) memcpy(bits + row * words, l.m.events + at, sizeof(Word) * words);
          else memset(bits + row * words, 0, sizeof(Word) * words);
        }
    if (l.within.binary) add_gradient(bits, grad_synapse, to, nullptr, rows, N, N);
    else outer_product(numbers, grad_synapse, to, rows, N, N);
  }
}

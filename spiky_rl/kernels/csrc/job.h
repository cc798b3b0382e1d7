// The arguments of a loop over time: T control steps of K inner steps each.
//
// Lanes are numbered flat over [B, N]: L = B N of them, and lane i is neuron i % N of sample i / N.
#pragma once

struct Job {
  const float *current;   // [T, K, L], or [T, 1, L] if constant over the control step
  const float *state;     // [STATES, L], or null for the zero state
  const float *params;    // [PARAMETERS, N]
  const float *keep;      // [T, B], or null; 0 where an episode begins with this control step
  const float *uniforms;  // [UNIFORMS]
  float *output;          // [T, K, L]
  float *last;            // [STATES, L], or null
  float *trace;           // [T, K, L]: first state after every step, or null
  const float *grad_output;  // [T, K, L], or null for zero
  const float *grad_last;    // [STATES, L], or null for zero
  float *grad_current;       // as current
  float *grad_state;         // [STATES, L], or null
  float *grad_params;        // [PARAMETERS, L] per lane, to be summed over B; or null
  float *scratch;            // GPU only: [T K, STATES, L]
  long T, K, B, N;
  long batch;    // rows in memory between two steps of keep and two states: the whole batch if this job is a part of it, else B
  long current_batch, output_batch;  // the same for current and grad_current, and for output, trace and grad_output
  int constant;  // current is [T, 1, L]
  int threads;
};

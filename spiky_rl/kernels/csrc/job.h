// What a loop over time is given.
//
// Lanes are numbered flat over [B, N]: L = B N of them, lane i is neuron i % N of sample i / N. T environment steps of K
// inner steps each.
#pragma once

struct Job {
  const float *current;   // [T, K, L], or [T, 1, L]: constant over the environment step
  const float *state;     // [STATES, L], or null: rest
  const float *params;    // [PARAMETERS, N]
  const float *keep;      // [T, B], or null; 0 where an episode begins with this environment step
  const float *uniforms;  // [UNIFORMS]
  float *output;          // [T, K, L]
  float *last;            // [STATES, L], or null
  float *trace;           // [T, K, L]: first state after every step, or null
  const float *grad_output;  // [T, K, L], or null: zero
  const float *grad_last;    // [STATES, L], or null: zero
  float *grad_current;       // as current
  float *grad_state;         // [STATES, L], or null
  float *grad_params;        // [PARAMETERS, L]: per lane, to be summed over B; or null
  float *scratch;            // GPU only: [T K, STATES, L]
  long T, K, B, N;
  long batch;    // B of the whole where this is a part of it, else B: rows of it lie between two steps and two states
  long current_batch, output_batch;  // the same for current and grad_current, and for output, trace and grad_output
  int constant;  // current is [T, 1, L]
  int threads;
};

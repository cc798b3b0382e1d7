// Layers, a stack of layers, and the work memory of one thread.
#pragma once

struct Layer {
  const float *weight;  // [C, N], or [N, C] if output_major; null if the signal is the current
  const float *bias;    // [N], or null
  const float *params;  // [parameters, N], or null
  const float *uniforms;
  void (*forward)(const Job *);
  int (*backward)(const Job *);
  const float *state;      // [states, B, N], the neuron's, then the loop's; null for the zero state
  float *last;             // the same, or null
  Word *bits;              // events of the layer's input, [T K, B, words]; null if not kept or if the input is not binary
  float *input;            // graded input, [T K, B, C]; null if not kept, if binary, or if it is the stack's x
  float *current;          // [T K or T, B, N]; of a recurrent layer with the feedback, [T K, B, N]; null if not kept
  const float *grad_last;  // as state, or null
  float *grad_state;       // as state, or null
  float *grad_weight;      // [C, N], or null
  float *grad_bias;        // [N], or null
  float *grad_params;      // [parameters, N], or null
  long C, N, states, parameters;
  int binary;  // the input is 0 or 1
  int output_major;
  IntraLayer within;
  float *padded;  // weights, then the bias, in padded rows if that pays; owned by the stack
  const float *charge;  // [C], added to the gradient of every event of the binary input; or null
};

struct Stack {
  const Layer *layers;
  const float *x;            // [T, K or 1, B, C]
  const float *keep;         // [T, B], or null
  float *output;             // [T, K, B, N] of the last layer, or null if only `last_step` is needed
  float *last_step;          // [T, B, N]: output of the last inner step, plus `offset` [N]; or null
  const float *offset;
  const float *grad_output;  // as output
  const float *grad_last_step;  // as last_step, in place of grad_output; or null
  float *grad_x;             // as x, or null
  long count, T, K, B;
  int constant;  // x is [T, 1, B, C]
  int bfloat16;
  int threads;
};

// The work memory of one thread.
struct Room {
  float *signal[2], *current, *gradient[2], *lanes;
  int *index;
  Word *bits;
  Half *halves;
  Recent memory;
};

#define CACHED 131072  // floats of a layer's signals that fit the second-level cache: 512 KiB

static long widest(const Stack &s) {
  long n = s.layers[0].C;
  for (long l = 0; l < s.count; l++) n = s.layers[l].N > n ? s.layers[l].N : n;
  return n;
}
static long rows_at_once(const Stack &s) {
  for (long l = 0; l < s.count; l++)  // the products of a recurrent layer have only these rows: take whole tiles
    if (s.layers[l].within.weight) return s.B < 12 ? s.B : 12;
  const long fit = CACHED / (s.T * s.K * widest(s));
  const long rows = fit < 8 ? 8 : fit > 64 ? 64 : fit / 4 * 4;
  return rows < s.B ? rows : s.B;
}

static void *take(char *&place, long bytes) {
  char *found = place;
  if (place) place += (bytes + 63) / 64 * 64;
  return found;
}
// Takes the memory that the recurrent layers of a stack need in a thread: the largest of each kind.
static void furnish_memory(Recent &m, char *&place, const Stack &s, long R, bool backward) {
  long events = 0, sent = 0, recalled = 0, size = 0, states = 0, early = 0;
  const auto raise = [](long &most, long value) { most = value > most ? value : most; };
  for (long l = 0; l < s.count; l++) {
    const Layer &layer = s.layers[l];
    if (!layer.within.weight) continue;
    const long D = layer.within.delays, rows = (D + s.T * s.K) * R;
    if (layer.within.binary) raise(events, rows * WORDS(layer.N));
    else raise(sent, rows * layer.N);
    raise(recalled, D * layer.N), raise(size, R * layer.N), raise(states, layer.states * R * layer.N);
    raise(early, D * R * layer.N);
  }
  if (!size) return;
  m.events = (Word *)take(place, sizeof(Word) * events);
  m.index = (int *)take(place, sizeof(int) * (recalled + SLACK));
  m.since = (int *)take(place, sizeof(int) * s.T * R);
  const auto floats = [&](long count) { return (float *)take(place, sizeof(float) * count); };
  m.sent = floats(sent), m.state = floats(states), m.gathered = floats(R * recalled);
  m.synapse = floats(size), m.arriving = floats(size), m.output = floats(size);
  if (backward) m.path = floats((s.T * s.K + 1) * states), m.grad_state = floats(states), m.early = floats(early);
}

// Divides one allocation into a thread's work memory; the first of two calls measures its size.
static long furnish(Room &room, char *start, const Stack &s, long R, bool backward) {
  char *place = start ? start : (char *)64;
  const long steps = s.T * s.K, floats = sizeof(float) * steps * R * widest(s);
  for (int i = 0; i < 2; i++) room.signal[i] = (float *)take(place, floats);
  room.current = (float *)take(place, floats);
  room.index = (int *)take(place, sizeof(int) * (widest(s) + SLACK));
  furnish_memory(room.memory, place, s, R, backward);
  if (backward) {
    long lanes = 1;
    for (long l = 0; l < s.count; l++) {
      const long n = s.layers[l].parameters * R * s.layers[l].N;
      lanes = n > lanes ? n : lanes;
    }
    for (int i = 0; i < 2; i++) room.gradient[i] = (float *)take(place, floats);
    room.lanes = (float *)take(place, sizeof(float) * lanes);
    room.bits = (Word *)take(place, sizeof(Word) * steps * R * WORDS(widest(s)));
    room.halves = (Half *)take(place, sizeof(Half) * (steps * R + 32) * (widest(s) + 32));
  }
  return place - (start ? start : (char *)64);
}

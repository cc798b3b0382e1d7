// Layers, a stack of them, and what one thread works in.
#pragma once

struct Layer {
  const float *weight;  // [C, N]; [N, C] where output_major; null: the signal is the current
  const float *bias;    // [N], or null
  const float *params;  // [parameters, N], or null
  const float *uniforms;
  void (*forward)(const Job *);
  int (*backward)(const Job *);
  const float *state;      // [states, B, N], those of the loop behind the neuron's; or null: rest
  float *last;             // the same, or null
  Word *bits;              // events of the layer's input, [T K, B, words]; null: not kept, or the input is not binary
  float *input;            // graded input, [T K, B, C]; null: not kept, binary, or the stack's x
  float *current;          // [T K or T, B, N], or null: not kept; a recurrent layer's with what arrived, [T K, B, N]
  const float *grad_last;  // as state, or null
  float *grad_state;       // as state, or null
  float *grad_weight;      // [C, N], or null
  float *grad_bias;        // [N], or null
  float *grad_params;      // [parameters, N], or null
  long C, N, states, parameters;
  int binary;  // the input is 0 or 1
  int output_major;
  IntraLayer within;
  float *padded;  // weights and then the bias in padded rows, where that is worth it; the stack's own
  const float *charge;  // [C], what an event of the binary input adds to its own gradient; or null
};

struct Stack {
  const Layer *layers;
  const float *x;            // [T, K or 1, B, C]
  const float *keep;         // [T, B], or null
  float *output;             // [T, K, B, N] of the last layer, or null where `last_step` is all that is wanted
  float *last_step;          // [T, B, N]: output of the last inner step, plus `offset` [N]; or null
  const float *offset;
  const float *grad_output;  // the same
  float *grad_x;             // as x, or null
  long count, T, K, B;
  int constant;  // x is [T, 1, B, C]
  int bfloat16;
  int threads;
};

// What one thread works in.
struct Room {
  float *signal[2], *current, *gradient[2], *lanes;
  int *index;
  Word *bits;
  Half *halves;
  Recent memory;
};

#define CACHED 131072  // floats of a layer's signals that stay in the second-level cache: 512 KiB

static long widest(const Stack &s) {
  long n = s.layers[0].C;
  for (long l = 0; l < s.count; l++) n = s.layers[l].N > n ? s.layers[l].N : n;
  return n;
}
static long rows_at_once(const Stack &s) {
  for (long l = 0; l < s.count; l++)  // a recurrent layer's products have these rows and no more: whole tiles of them
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
// What the recurrent layers of a stack want of a thread, the largest of each.
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

// Carves a thread's room out of one allocation; called twice, first to measure.
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

// A stack of layers, each a linear map and a neuron, forward and backward in one call.
//
// A few rows of the batch pass through all layers before the next rows, so that the signals between layers stay in the cache.
#pragma once

static Job job_of(const Stack &s, const Layer &layer, long l, long b, long R) {
  Job job = {};
  job.params = layer.params, job.uniforms = layer.uniforms;
  job.state = layer.state ? layer.state + b * layer.N : nullptr;
  job.keep = s.keep ? s.keep + b : nullptr;
  job.T = s.T, job.K = s.K, job.B = R, job.N = layer.N, job.batch = s.B;
  job.constant = l == 0 && s.constant;
  job.threads = 1;
  job.current_batch = job.output_batch = R;
  return job;
}

static Loop loop_of(const Stack &s, const Layer &layer, const Job &job, const Room &room, long b, long R) {
  Loop loop = {};
  loop.within = layer.within;
  if (loop.within.trace) loop.within.trace += b * layer.N;
  loop.forward = layer.forward, loop.backward = layer.backward;
  loop.step = job;
  loop.step.T = loop.step.K = 1, loop.step.batch = loop.step.current_batch = loop.step.output_batch = R;
  loop.step.constant = 0, loop.step.keep = nullptr;
  loop.keep = s.keep ? s.keep + b : nullptr;
  loop.state = job.state, loop.states = layer.states;
  loop.T = s.T, loop.K = s.K, loop.B = s.B, loop.R = R, loop.N = layer.N, loop.m = room.memory;
  return loop;
}

static void map_rows(const Layer &layer, const float *x, Word *bits, float *y, long rows, int *index) {
  const float *w = layer.padded ? layer.padded : layer.weight;
  const float *bias = layer.padded && layer.bias ? w + layer.C * PADDED_ROW(layer.N) : layer.bias;
  linear_rows(x, bits, w, bias, y, rows, layer.C, layer.N, layer.binary, index, layer.padded != nullptr);
}

// Runs rows b to b + R through all layers.
static void forward_rows(const Stack &s, Room &room, long b, long R) {
  const float *signal = s.x + b * s.layers[0].C;
  long batch = s.B;  // rows between two steps of the signal
  for (long l = 0; l < s.count; l++) {
    const Layer &layer = s.layers[l];
    const long steps = l == 0 && s.constant ? s.T : s.T * s.K, words = WORDS(layer.C);
    for (long t = 0; layer.input && l > 0 && t < steps; t++)
      memcpy(layer.input + (t * s.B + b) * layer.C, signal + t * batch * layer.C, sizeof(float) * R * layer.C);
    const bool kept = layer.current && !(layer.within.weight && l == 0 && s.constant);
    float *current = kept ? layer.current + b * layer.N : room.current;
    const long current_batch = kept ? s.B : R;
    for (long t = 0; layer.weight && t < steps; t++)
      map_rows(layer, signal + t * batch * layer.C, layer.bits ? layer.bits + (t * s.B + b) * words : nullptr,
               current + t * current_batch * layer.N, R, room.index);
    Job job = job_of(s, layer, l, b, R);
    job.last = layer.last ? layer.last + b * layer.N : nullptr;
    const bool whole = l == s.count - 1 && s.output;
    job.output = whole ? s.output + b * layer.N : room.signal[l % 2];
    job.output_batch = whole ? s.B : R;
    if (layer.within.weight) {
      const float *from = layer.weight ? current : signal;
      loop_forward(loop_of(s, layer, job, room, b, R), from, (layer.weight ? current_batch : batch) * layer.N, job.constant,
                   layer.current ? layer.current + b * layer.N : room.memory.output, layer.current ? s.B * layer.N : 0, job.output, job.output_batch * layer.N, nullptr, job.last);
    } else {
      job.current = current, job.current_batch = current_batch;
      layer.forward(&job);
    }
    signal = room.signal[l % 2], batch = R;
    for (long t = 0; s.last_step && l == s.count - 1 && t < s.T; t++)
      for (long r = 0; r < R; r++)
        for (long n = 0; n < layer.N; n++)
          s.last_step[(t * s.B + b + r) * layer.N + n] =
              job.output[((t * s.K + s.K - 1) * job.output_batch + r) * layer.N + n] + s.offset[n];
  }
}

// Computes the gradients of a recurrent layer's rows. Its feed-forward current is in `room.current`, or is the `signal`.
static int backward_loop(const Stack &s, const Layer &layer, const Loop &loop, const Job &job, Room &room, const float *signal,
                         long side, long b) {
  const long size = loop.R * loop.N, steps = s.T * s.K;
  float *of_output = room.gradient[1 - side], *arrived = room.signal[1];
  float *drive = layer.current ? layer.current + b * loop.N : room.gradient[side];
  const long stride = layer.current ? s.B * loop.N : size;
  const float *current = layer.current ? nullptr : layer.weight ? room.current : signal;
  loop_forward(loop, current, layer.weight ? size : s.B * loop.N, job.constant, drive, stride, room.memory.output, 0,
               room.memory.path, nullptr);
  for (long step = 0; job.grad_output != of_output && step < steps; step++)
    memcpy(of_output + step * size, job.grad_output + step * job.output_batch * loop.N, sizeof(float) * size);
  if (loop_backward(loop, drive, stride, of_output, job.grad_last, job.grad_state, job.grad_current, arrived, layer.grad_params,
                    layer.parameters, room.lanes))
    return 1;
  loop_weight_gradient(loop, arrived, room.bits, room.gradient[side], layer.within.grad_weight);
  for (long t = 0; job.constant && t < s.T; t++) {  // a current that is constant over the control step: sum over the inner steps
    float *sum = room.memory.arriving;
    memset(sum, 0, sizeof(float) * size);
    for (long k = s.K - 1; k >= 0; k--) {
      const float *part = job.grad_current + (t * s.K + k) * size;
      for (long i = 0; i < size; i++) sum[i] += part[i];
    }
    memcpy(job.grad_current + t * size, sum, sizeof(float) * size);
  }
  return 0;
}

// Loops over the events of a word; c is the index of each.
#define EACH_EVENT(word, c, first) for (Word left = (word); left && ((c) = (first) + __builtin_ctzll(left), true); left &= left - 1)

extern "C" void spiky_count(const Word *bits, long *counts, long rows, long inputs) {
  long c;
  for (long r = 0; r < rows; r++)
    for (long w = 0; w < WORDS(inputs); w++) EACH_EVENT(bits[r * WORDS(inputs) + w], c, w * 64) counts[c]++;
}

// Adds the gradients of rows b to b + R to those of `layers` (a thread's own copies of the stack's layers). The gradients of `fresh`
// weights are overwritten.
static int backward_rows(const Stack &s, const Layer *layers, const float *const *panels, const Half *const *packed,
                         Room &room, long b, long R, bool fresh) {
  for (long l = s.count - 1, side = 0; l >= 0; l--, side = 1 - side) {
    const Layer &layer = layers[l];
    const bool first = l == 0, top = l == s.count - 1;
    const long steps = first && s.constant ? s.T : s.T * s.K, words = WORDS(layer.C), C = layer.C, N = layer.N;
    const float *input = first ? s.x : layer.input;  // a graded input; a binary one is in the bits
    Job job = job_of(s, layer, l, b, R);
    job.grad_output = top ? s.grad_output + b * N : room.gradient[1 - side];
    job.output_batch = top ? s.B : R;
    job.grad_last = layer.grad_last ? layer.grad_last + b * N : nullptr;
    job.grad_state = layer.grad_state ? layer.grad_state + b * N : nullptr;
    job.grad_params = layer.grad_params ? room.lanes : nullptr;
    float *gradient = room.signal[0];
    job.grad_current = gradient;
    if (layer.current && !layer.within.weight)  // current and gradient need the same strides: copy the current
      for (long t = 0; t < steps; t++)
        memcpy(room.current + t * R * N, layer.current + (t * s.B + b) * N, sizeof(float) * R * N);
    for (long t = 0; !layer.current && layer.weight && t < steps; t++)  // compute the current again from its input
      map_rows(layer, layer.binary ? nullptr : input + (t * s.B + b) * C,
               layer.binary ? layer.bits + (t * s.B + b) * words : nullptr, room.current + t * R * N, R, room.index);
    job.current = room.current;
    if (layer.within.weight) {
      if (backward_loop(s, layer, loop_of(s, layer, job, room, b, R), job, room, input + b * C, side, b)) return 1;
    } else {
      if (layer.backward(&job)) return 1;
      for (long q = 0; layer.grad_params && q < layer.parameters; q++)
        for (long i = 0; i < R * N; i++) layer.grad_params[q * N + i % N] += room.lanes[q * R * N + i];
    }
    if (layer.grad_weight && layer.binary) {
      for (long t = 0; t < steps; t++)
        memcpy(room.bits + t * R * words, layer.bits + (t * s.B + b) * words, sizeof(Word) * R * words);
      add_gradient(room.bits, gradient, layer.grad_weight, layer.grad_bias, steps * R, C, N, fresh);
    } else if (layer.grad_weight) {
      for (long t = 0; t < steps; t++)
        outer_product(input + (t * s.B + b) * C, gradient + t * R * N, layer.grad_weight, R, C, N, fresh && t == 0);
      for (long r = 0; layer.grad_bias && r < steps * R; r++)
        for (long n = 0; n < N; n++) layer.grad_bias[n] += gradient[r * N + n];
    }
    if (first && !s.grad_x) continue;
    float *below = layer.weight ? room.gradient[side] : gradient;
    if (layer.weight) {
#if HAS_BFLOAT16
      if (s.bfloat16) rounded_product(gradient, packed[l], room.halves, below, steps * R, C, N);
      else
#endif
        returned_rows(gradient, panels[l], below, steps * R, C, N);
    }
    for (long i = 0, c; layer.charge && i < steps * R * words; i++)
      EACH_EVENT(layer.bits[(i / (R * words) * s.B + b) * words + i % (R * words)], c, i % words * 64)
        below[i / words * C + c] += layer.charge[c];
    if (first)
      for (long t = 0; t < steps; t++)
        memcpy(s.grad_x + (t * s.B + b) * C, below + t * R * C, sizeof(float) * R * C);
  }
  return 0;
}

// to [columns, rows] = the transpose of w [rows, columns].
static void turn_matrix(const float *w, float *to, long rows, long columns) {
  for (long r = 0; r < rows; r++)
    for (long c = 0; c < columns; c++) to[c * rows + r] = w[r * columns + c];
}

// Frees the copies that `prepare` made for the first `count` layers.
static void dispose(Layer *layers, long count) {
  for (long l = 0; l < count; l++) {
    if (layers[l].output_major) free((void *)layers[l].weight);
    free(layers[l].padded);
  }
  free(layers);
}
#define MANY 256  // minimum rows for which padding the weights pays
// The layers with all weights input-major (copied if they are not), and padded if events read many unaligned rows. Null if memory
// runs out.
static Layer *prepare(const Stack &s) {
  Layer *found = (Layer *)malloc(sizeof(Layer) * s.count);
  if (!found) return nullptr;
  memcpy(found, s.layers, sizeof(Layer) * s.count);
  for (long l = 0; l < s.count; l++) {
    Layer &layer = found[l];
    const long C = layer.C, N = layer.N, stride = PADDED_ROW(N);
    bool failed = false;
    if (layer.output_major) {
      float *turned = (float *)malloc(sizeof(float) * C * N);
      if (turned) turn_matrix(layer.weight, turned, N, C);
      layer.weight = turned, failed = !turned;
    }
    if (layer.weight && layer.binary && N % WIDTH && s.T * s.K * s.B >= MANY) {
      float *rows = layer.padded = allocate_floats((C + 1) * stride);
      if (rows) memset(rows, 0, sizeof(float) * (C + 1) * stride);
      for (long c = 0; rows && c < C; c++) memcpy(rows + c * stride, layer.weight + c * N, sizeof(float) * N);
      if (rows && layer.bias) memcpy(rows + C * stride, layer.bias, sizeof(float) * N);
      failed |= !rows;
    }
    if (failed) {
      dispose(found, l + 1);
      return nullptr;
    }
  }
  return found;
}

// Runs the share of thread `which` of `count` in a forward pass.
static int forward_share(const Stack &s, long R, long bytes, int which, int count) {
  char *memory = (char *)aligned_alloc(64, bytes);
  if (!memory) return 1;
  Room room;
  furnish(room, memory, s, R, false);
  for (long b = which * R; b < s.B; b += count * R) forward_rows(s, room, b, s.B - b < R ? s.B - b : R);
  free(memory);
  return 0;
}

extern "C" int spiky_stack_forward(const Stack *stack) {
  Stack s = *stack;
  Layer *layers = prepare(s);
  if (!layers) return 1;
  s.layers = layers;
  const long R = rows_at_once(s);
  Room measure;
  const long bytes = furnish(measure, nullptr, s, R, false);
  int failed = 0;
#ifdef _OPENMP
  if (s.threads > 1) {
#pragma omp parallel num_threads(s.threads) reduction(| : failed)
    failed |= forward_share(s, R, bytes, omp_get_thread_num(), omp_get_num_threads());
  } else
#endif
    failed = forward_share(s, R, bytes, 0, 1);
  dispose(layers, s.count);
  return failed;
}

static long synapses_within(const Layer &layer) { return layer.within.weight ? layer.within.delays * layer.N * layer.N : 0; }
static long gradients_of(const Layer &layer) {
  return layer.C * layer.N + layer.N + layer.parameters * layer.N + synapses_within(layer);
}

// The gradient of the output, [T, K, B, N], from that of its last inner step. Null if memory runs out.
static float *spread_last_step(const Stack &s) {
  const long size = s.B * s.layers[s.count - 1].N;
  float *found = (float *)calloc(s.T * s.K * size, sizeof(float));
  for (long t = 0; found && t < s.T; t++)
    memcpy(found + (t * s.K + s.K - 1) * size, s.grad_last_step + t * size, sizeof(float) * size);
  return found;
}

// Overwrites the gradients. Each of several threads adds up its own rows; then the threads' sums are added in order.
extern "C" int spiky_stack_backward(const Stack *stack) {
  Stack s = *stack;
  Layer *layers = prepare(s);
  if (!layers) return 1;
  s.layers = layers;
  const long R = rows_at_once(s), n = s.count;
  const int threads = s.threads > 1 ? s.threads : 1;
  Room measure;
  const long bytes = furnish(measure, nullptr, s, R, true);
  long size = 0;
  for (long l = 0; l < n; l++) size += gradients_of(s.layers[l]);
  const float **panels = (const float **)calloc(n, sizeof(float *));
  const Half **packed = (const Half **)calloc(n, sizeof(Half *));
  float *sums = (float *)calloc(threads > 1 ? threads * size : 1, sizeof(float));
  float *spread = s.grad_last_step ? spread_last_step(s) : nullptr;
  int failed = !panels || !packed || !sums || (s.grad_last_step && !spread);
  if (spread) s.grad_output = spread;
  for (long l = 0; l < n; l++)  // the gradients are computed input-major
    if (s.layers[l].output_major && s.layers[l].grad_weight) {
      layers[l].grad_weight = (float *)malloc(sizeof(float) * s.layers[l].C * s.layers[l].N);
      failed |= !layers[l].grad_weight;
    }
  for (long l = 0; l < n && !failed; l++) {
    const Layer &layer = s.layers[l];
    if (layer.grad_bias) memset(layer.grad_bias, 0, sizeof(float) * layer.N);
    if (layer.grad_params) memset(layer.grad_params, 0, sizeof(float) * layer.parameters * layer.N);
    if (layer.within.weight) {
      const long recalled = layer.within.delays * layer.N;
      memset(layer.within.grad_weight, 0, sizeof(float) * recalled * layer.N);
      failed |= !(layers[l].within.panels = panels_of(layer.within.weight, recalled, layer.N));
    }
    if (!layer.weight || (l == 0 && !s.grad_x)) continue;
#if HAS_BFLOAT16
    if (s.bfloat16) {
      packed[l] = pack_weights(layer.weight, layer.C, layer.N);
      failed |= !packed[l];
      continue;
    }
#endif
    panels[l] = panels_of(layer.weight, layer.C, layer.N);
    failed |= !panels[l];
  }
  const bool begun = !failed;
#pragma omp parallel if (threads > 1) num_threads(threads) reduction(| : failed)
  {
    Room room;
    char *memory = begun ? (char *)aligned_alloc(64, bytes) : nullptr;
    Layer *own = begun ? (Layer *)malloc(sizeof(Layer) * n) : nullptr;
    const bool ready = memory && own;
    failed |= !ready;
    if (ready) {
      furnish(room, memory, s, R, true);
      memcpy(own, s.layers, sizeof(Layer) * n);
    }
#ifdef _OPENMP
    float *place = ready && threads > 1 ? sums + omp_get_thread_num() * size : nullptr;
    for (long l = 0; threads > 1 && l < n && ready; l++) {
      const Layer &layer = s.layers[l];
      own[l].grad_weight = layer.grad_weight ? place : nullptr;
      own[l].grad_bias = layer.grad_bias ? place + layer.C * layer.N : nullptr;
      own[l].grad_params = layer.grad_params ? place + layer.C * layer.N + layer.N : nullptr;
      own[l].within.grad_weight = place + gradients_of(layer) - synapses_within(layer);
      place += gradients_of(layer);
    }
#endif
#pragma omp for schedule(static)
    for (long b = 0; b < s.B; b += R)
      if (ready) failed |= backward_rows(s, own, panels, packed, room, b, s.B - b < R ? s.B - b : R, threads == 1 && b == 0);
    free(memory);
    free(own);
  }
  for (int t = 0; threads > 1 && t < threads && !failed; t++) {
    const float *place = sums + t * size;
    for (long l = 0; l < n; l++) {
      const Layer &layer = s.layers[l];
      for (long i = 0; layer.grad_weight && i < layer.C * layer.N; i++)
        layer.grad_weight[i] = (t ? layer.grad_weight[i] : 0.0f) + place[i];
      for (long i = 0; layer.grad_bias && i < layer.N; i++) layer.grad_bias[i] += place[layer.C * layer.N + i];
      for (long i = 0; layer.grad_params && i < layer.parameters * layer.N; i++)
        layer.grad_params[i] += place[layer.C * layer.N + layer.N + i];
      for (long i = 0; i < synapses_within(layer); i++)
        layer.within.grad_weight[i] += place[gradients_of(layer) - synapses_within(layer) + i];
      place += gradients_of(layer);
    }
  }
  for (long l = 0; l < n; l++) {
    if (panels) free((void *)panels[l]);
    if (packed) free((void *)packed[l]);
    free((void *)layers[l].within.panels);
    const Layer &given = stack->layers[l];
    if (!given.output_major || !given.grad_weight) continue;
    if (!failed) turn_matrix(layers[l].grad_weight, given.grad_weight, given.C, given.N);
    free(layers[l].grad_weight);
  }
  free(panels), free(packed), free(sums), free(spread);
  dispose(layers, n);
  return failed;
}

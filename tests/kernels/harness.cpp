// Drives every kernel on several threads, in memory of exactly the size that it needs. The text of the kernels comes before
// this one, and then `struct Neuron` and NEURONS, the table of all neurons.
//
// Without an argument: several threads must give what one gives. With one: the first, second, ... piece of memory is refused,
// which every kernel must report, with all that it took given back.
#include <atomic>
#include <stdio.h>
#include <vector>

typedef std::vector<float> Floats;
static const int THREADS = 4;

static unsigned seed = 1;
static float noise() { return (float)((seed = seed * 1664525u + 1013904223u) >> 8) / (1 << 24) - 0.5f; }
static Floats floats(long n, float size = 1.0f) {
  Floats x(n);
  for (float &value : x) value = size * noise();
  return x;
}
static Floats ones(long n, float share) {
  Floats x(n);
  for (float &value : x) value = noise() + 0.5f < share;
  return x;
}
static void same(const char *what, const Floats &a, const Floats &b, float tolerance) {
  float largest = 1e-6f;
  for (float value : b) largest = fabsf(value) > largest ? fabsf(value) : largest;
  for (size_t i = 0; i < a.size(); i++)
    if (!(fabsf(a[i] - b[i]) <= tolerance * largest)) printf("%s: %g is not %g\n", what, a[i], b[i]), exit(3);
}

// Memory that can be refused

static std::atomic<long> left{-1}, live{0};  // pieces until one is refused; pieces taken
static bool refused() { return left >= 0 && left-- == 0; }
extern "C" {
void *__real_malloc(size_t);
void *__real_calloc(size_t, size_t);
void *__real_aligned_alloc(size_t, size_t);
void __real_free(void *);
void *__wrap_malloc(size_t n) { return refused() ? nullptr : (live++, __real_malloc(n)); }
void *__wrap_calloc(size_t n, size_t m) { return refused() ? nullptr : (live++, __real_calloc(n, m)); }
void *__wrap_aligned_alloc(size_t a, size_t n) { return refused() ? nullptr : (live++, __real_aligned_alloc(a, n)); }
void __wrap_free(void *p) {
  if (p) live--;
  __real_free(p);
}
}
static bool refusing;
// Runs a kernel, `call` -> 0 if it had all memory; with refusals: until it had.
template <class Call> static void attempt(const char *what, const Call &call) {
  for (long n = 0;; n++) {
    left = refusing ? n : -1;
    const int failed = call();
    const bool spent = refusing && left < 0;
    left = -1;
    if (live) printf("%s keeps %ld pieces after refusal %ld\n", what, live.load(), n), exit(4);
    if (spent && !failed) printf("%s does not report refusal %ld\n", what, n), exit(5);
    if (!spent && failed) printf("%s fails\n", what), exit(6);
    if (!spent) return;
  }
}

// Neurons

static Floats params_of(const Neuron &neuron, long N) {
  Floats p;
  for (int q = 0; q < neuron.parameters; q++)
    for (long n = 0; n < N; n++) p.push_back(neuron.params[q] * (1.0f + 0.01f * (n % 5)));
  return p;
}

static void neuron_on(const Neuron &neuron, long B, long N, int constant, bool bare) {
  const long T = 3, K = 2, L = B * N, inner = constant ? 1 : K;
  const Floats current = floats(T * inner * L, 6.0f), state = floats(neuron.states * L, 0.2f), keep = ones(T * B, 0.7f);
  const Floats params = params_of(neuron, N), g = floats(T * K * L), last_g = floats(neuron.states * L);
  std::vector<Floats> found[2];
  for (int threads : {1, THREADS}) {
    Floats output(T * K * L), last(neuron.states * L), trace(T * K * L);
    Floats grad_current(T * inner * L), grad_state(neuron.states * L), grad_params(neuron.parameters * L);
    Job job = {};
    job.current = current.data(), job.params = params.data(), job.uniforms = neuron.uniforms;
    job.output = output.data(), job.grad_current = grad_current.data();
    if (!bare) {
      job.state = state.data(), job.keep = keep.data(), job.last = last.data(), job.trace = trace.data();
      job.grad_output = g.data(), job.grad_last = last_g.data();
      job.grad_state = grad_state.data(), job.grad_params = grad_params.data();
    }
    job.T = T, job.K = K, job.B = job.batch = job.current_batch = job.output_batch = B, job.N = N;
    job.constant = constant, job.threads = threads;
    neuron.forward(&job);
    attempt(neuron.name, [&] { return neuron.backward(&job); });
    found[threads > 1] = {output, last, trace, grad_current, grad_state, grad_params};
  }
  for (int i = 0; i < 6; i++) same(neuron.name, found[1][i], found[0][i], 0.0f);
}

// Linear maps

static void linear_on(long rows, long inputs, long outputs, int binary) {
  const Floats x = binary ? ones(rows * inputs, 0.2f) : floats(rows * inputs), w = floats(inputs * outputs), b = floats(outputs);
  Floats found[2];
  std::vector<Word> bits(rows * WORDS(inputs)), packed(rows * WORDS(inputs));
  for (int threads : {1, THREADS}) {
    Floats &y = found[threads > 1] = Floats(rows * outputs);
    attempt("linear", [&] {
      return spiky_linear(x.data(), binary ? bits.data() : nullptr, w.data(), b.data(), y.data(), rows, inputs, outputs, binary, threads);
    });
    if (binary) attempt("linear", [&] {
      return spiky_linear(nullptr, bits.data(), w.data(), nullptr, y.data(), rows, inputs, outputs, 1, threads);
    });
  }
  same("linear", found[1], found[0], 0.0f);
  if (!binary) return;
  Floats grad = floats(rows * outputs), grad_w(inputs * outputs), grad_b(outputs), back(rows * inputs);
  spiky_linear_gradient(bits.data(), grad.data(), grad_w.data(), grad_b.data(), rows, inputs, outputs);
  spiky_pack(x.data(), packed.data(), rows, inputs);
  spiky_unpack(packed.data(), back.data(), rows, inputs);
  same("pack and unpack", back, x, 0.0f);
}

// Stacks

struct Held {
  Floats weight, bias, params, state, last, input, current, grad_last, grad_state, grad_weight, grad_bias, grad_params;
  Floats within, grad_within;
  std::vector<Word> bits;
};

// With `delays` the first two layers are recurrent.
static void stack_on(const Neuron &neuron, long B, int constant, int halves, bool bare, long delays = 0, int filtered = 0) {
  const long T = 2, K = 3, sizes[] = {19, 70, 33, 3}, count = 3, inner = constant ? 1 : K;
  const Floats x = floats(T * inner * B * sizes[0], 4.0f), keep = ones(T * B, 0.8f), g = floats(T * K * B * sizes[3]);
  Held first[3];
  for (long l = 0; l < count; l++) {
    const long C = sizes[l], N = sizes[l + 1];
    first[l].weight = floats(C * N, 4.0f), first[l].bias = floats(N), first[l].params = params_of(neuron, N);
    const long states = neuron.states + (l < 2 && delays ? delays + filtered : 0);
    first[l].state = floats(states * B * N, 0.1f), first[l].grad_last = floats(states * B * N);
    if (l < 2 && delays) first[l].within = floats(delays * N * N, 0.5f);
  }
  std::vector<Floats> found[2];
  for (int threads : {1, THREADS}) {
    Held held[3] = {first[0], first[1], first[2]};
    Layer layers[3] = {};
    for (long l = 0; l < count; l++) {
      Held &h = held[l];
      Layer &layer = layers[l];
      const long C = sizes[l], N = sizes[l + 1], steps = T * (l == 0 ? inner : K), states = h.state.size();
      layer.weight = h.weight.data(), layer.bias = h.bias.data(), layer.params = h.params.data();
      layer.uniforms = neuron.uniforms, layer.forward = neuron.forward, layer.backward = neuron.backward;
      layer.C = C, layer.N = N, layer.states = neuron.states, layer.parameters = neuron.parameters;
      layer.output_major = l != 1;
      layer.binary = l > 0 && !neuron.graded;
      if (layer.binary) h.bits.resize(steps * B * WORDS(C)), layer.bits = h.bits.data();
      else if (l > 0) h.input.resize(steps * B * C), layer.input = h.input.data();
      h.grad_weight.resize(C * N), h.grad_bias.resize(N), h.grad_params.resize(neuron.parameters * N);
      layer.grad_weight = h.grad_weight.data(), layer.grad_bias = h.grad_bias.data(), layer.grad_params = h.grad_params.data();
      if (!h.within.empty()) {
        IntraLayer &within = layer.within;
        h.grad_within.resize(h.within.size());
        within.weight = h.within.data(), within.grad_weight = h.grad_within.data(), within.delays = delays;
        within.decay = 0.5f, within.filtered = filtered, within.binary = !neuron.graded;
      }
      if (bare) continue;
      h.last.resize(states), h.grad_state.resize(states), h.current.resize((delays ? T * K : steps) * B * N);
      layer.state = h.state.data(), layer.last = h.last.data(), layer.current = h.current.data();
      layer.grad_last = h.grad_last.data(), layer.grad_state = h.grad_state.data();
    }
    Floats output(T * K * B * sizes[3]), grad_x(x.size()), last_step(T * B * sizes[3]), offset = floats(sizes[3]);
    Stack s = {};
    s.layers = layers, s.count = count, s.x = x.data(), s.T = T, s.K = K, s.B = B;
    s.constant = constant, s.bfloat16 = halves, s.threads = threads;
    s.keep = bare ? nullptr : keep.data();
    s.output = output.data();
    attempt("stack forward", [&] { return spiky_stack_forward(&s); });
    s.output = nullptr, s.last_step = last_step.data(), s.offset = offset.data();
    attempt("stack forward, last step", [&] { return spiky_stack_forward(&s); });
    s.last_step = nullptr, s.grad_output = g.data(), s.grad_x = bare ? nullptr : grad_x.data();
    attempt("stack backward", [&] { return spiky_stack_backward(&s); });
    found[threads > 1] = {output, grad_x};
    for (const Held &h : held)
      for (const Floats *part : {&h.last, &h.grad_state, &h.grad_weight, &h.grad_bias, &h.grad_params, &h.grad_within})
        found[threads > 1].push_back(*part);
  }
  same("stack forward", found[1][0], found[0][0], 0.0f);
  // sums over rows in another order
  for (size_t i = 1; i < found[0].size(); i++) same("stack backward", found[1][i], found[0][i], 1e-4f);
}

// Convolutions

static void convolution_on(const Geometry &g, long rows, bool binary, int bfloat16) {
  const long inputs = g.channels * g.height * g.width, taps = g.channels * g.kernel * g.kernel;
  const long side = ((g.height + 2 * g.padding - g.kernel) / g.stride + 1) / g.pool;
  const long across = ((g.width + 2 * g.padding - g.kernel) / g.stride + 1) / g.pool, blocks = side * across;
  const Floats x = binary ? ones(rows * inputs, 0.1f) : floats(rows * inputs), w = floats(g.outputs * taps), b = floats(g.outputs);
  const Floats grad = floats(rows * g.outputs * blocks);
  std::vector<Floats> found[2];
  for (int threads : {1, THREADS}) {
    std::vector<Word> bits(binary ? rows * WORDS(inputs) : 0);
    std::vector<uint8_t> where(rows * blocks * g.outputs);
    Floats y(rows * g.outputs * blocks), grad_w(w.size()), grad_b(b.size()), grad_x(rows * inputs);
    Word *events = binary ? bits.data() : nullptr;
    attempt("convolution", [&] {
      return spiky_convolution(&g, x.data(), events, w.data(), b.data(), y.data(), nullptr, rows, threads);
    });
    attempt("convolution", [&] {
      return spiky_convolution(&g, x.data(), events, w.data(), b.data(), y.data(), where.data(), rows, threads);
    });
    for (float *wanted : {(float *)nullptr, grad_x.data()})
      attempt("convolution backward", [&] {
        return spiky_convolution_gradient(&g, binary ? nullptr : x.data(), events, where.data(), w.data(), grad.data(), grad_w.data(),
                                          grad_b.data(), wanted, rows, bfloat16, threads);
      });
    found[threads > 1] = {y, grad_w, grad_b, grad_x};
  }
  for (int i = 0; i < 4; i++) same("convolution", found[1][i], found[0][i], 0.0f);
}

int main(int count, char **) {
  refusing = count > 1;
  const long shapes[][2] = {{1, 1}, {3, 5}, {9, 61}, {40, 16}};
  long neurons = 0;
  for (const Neuron &neuron : NEURONS) {
    for (auto &shape : shapes)
      for (int constant : {0, 1})
        for (bool bare : {false, true}) neuron_on(neuron, shape[0], shape[1], constant, bare);
    for (int constant : {0, 1})
      for (bool bare : {false, true}) stack_on(neuron, 77, constant, 0, bare);
    stack_on(neuron, 5, 1, HAS_BFLOAT16, false);
    for (int filtered : {0, 1})
      for (bool bare : {false, true}) stack_on(neuron, 29, filtered, 0, bare, 2, filtered);
    neurons++;
  }
  for (long outputs : {1, 3, 16, 37, 250})
    for (int binary : {0, 1}) linear_on(101, 70, outputs, binary);
  for (const Geometry &g : {Geometry({2, 12, 10, 5, 3, 1, 1, 2}), Geometry({1, 9, 9, 17, 5, 2, 0, 1}), Geometry({3, 11, 13, 33, 4, 1, 2, 3}),
                            Geometry({12, 9, 9, 33, 5, 1, 0, 2}), Geometry({8, 13, 14, 40, 3, 1, 1, 2})})
    for (bool binary : {false, true})
      for (int bfloat16 : {0, 1}) convolution_on(g, 21, binary, bfloat16);
  printf("%ld neurons, bfloat16 %s\n", neurons, HAS_BFLOAT16 ? "in hardware" : "absent");
}

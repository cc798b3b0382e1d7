// Time loops around a neuron's step, forward and adjoint, with the state in registers; one text for GPU and CPU.
//
// The forward pass saves only its inputs. The adjoint runs a chunk of lanes forward again, stores the state before every step in
// `scratch`, and walks back. On a CPU scratch belongs to one chunk and stays in the cache, so the states between the sub-steps of
// a step are stored too. On a GPU every lane has its own scratch, so the sub-steps are run a third time.
#pragma once

#define ALL (STATES + (SUBSTEPS > 1))
#define SOME(n) ((n) > 0 ? (n) : 1)

#if SUBSTEPS > 1 && !defined(GPU)
#define KEPT (SUBSTEPS + 1)  // states that scratch holds per step
#define KEPT_STATES ALL      // numbers per state
#else
#define KEPT 1
#define KEPT_STATES STATES
#endif

// One inner step of one vector of lanes, with the neuron's sub-steps. It calls `keep(m, s)` with the state before each sub-step and
// before the output.
template <class Keep> INLINE void whole_step(F i, F *s, const F *p, const float *u, F &out, const Keep &keep) {
#if SUBSTEPS > 1
  s[STATES] = LANE(-1e30f);
  for (int m = 0; m < SUBSTEPS; m++) keep(m, s), advance(i, s, p, u);
  keep(SUBSTEPS, s);
  emit(s, p, u, out);
#else
  keep(0, s);
  step(i, s, p, u, out);
#endif
}

// The adjoint of `whole_step`. `state(m, s)` reads the states that `keep` stored. On entry g is the gradient of the state after the
// step, on return that of the state before it.
template <class State>
INLINE void whole_step_adjoint(F i, const State &state, const F *p, const float *u, F go, F *g, F *gp, F &gi) {
#if SUBSTEPS > 1
  F s[ALL], inner[ALL];
  for (int q = 0; q < STATES; q++) inner[q] = g[q];
  inner[STATES] = LANE(0);
#ifdef GPU
  F path[SUBSTEPS + 1][ALL];
  state(0, path[0]);
  path[0][STATES] = LANE(-1e30f);
  for (int m = 0; m < SUBSTEPS; m++) {
    for (int q = 0; q < ALL; q++) path[m + 1][q] = path[m][q];
    advance(i, path[m + 1], p, u);
  }
#define STATE_BEFORE(m) for (int q = 0; q < ALL; q++) s[q] = path[m][q]
#else
#define STATE_BEFORE(m) state(m, s)
#endif
  STATE_BEFORE(SUBSTEPS);
  emit_adjoint(s, p, u, go, inner, gp, gi);
  for (int m = SUBSTEPS - 1; m >= 0; m--) {
    STATE_BEFORE(m);
    advance_adjoint(i, s, p, u, inner, gp, gi);
  }
  for (int q = 0; q < STATES; q++) g[q] = inner[q];
#else
  F s[STATES];
  state(0, s);
  step_adjoint(i, s, p, u, go, g, gp, gi);
#endif
}

#ifdef GPU

#define FUNCTION INLINE
#define CHUNK 1
#define FETCH(place, written)
INLINE F load(const float *x, long) { return *x; }
INLINE void store(float *x, F value, long) { *x = value; }
INLINE F load_param(const float *x, long lane, long N, long) { return x[lane % N]; }
INLINE F load_keep(const float *x, long lane, long N, long) { return x[lane / N]; }

#else

#define FUNCTION static
#define CHUNK (SUBSTEPS > 1 ? 4 : 16)
// If a step is larger than the cache, the loop touches one place per step in turn, too many for the hardware prefetcher, so the
// next step's lanes are prefetched. If a step fits the cache, that would only cost time.
#define FETCH(place, written) (c.large ? __builtin_prefetch(place, written) : (void)0)
INLINE F load(const float *x, long left) {
  F value = {};
  memcpy(&value, x, left >= WIDTH ? sizeof value : left * sizeof(float));
  return value;
}
INLINE void store(float *x, F value, long left) {
  memcpy(x, &value, left >= WIDTH ? sizeof value : left * sizeof(float));
}
INLINE F load_param(const float *x, long lane, long N, long left) {
  long n = lane % N;
  if (left >= WIDTH && n + WIDTH <= N) return load(x + n, WIDTH);
  F value;
  for (int j = 0; j < WIDTH; j++) {
    value[j] = x[n];
    if (++n == N) n = 0;
  }
  return value;
}
INLINE F load_keep(const float *x, long lane, long N, long left) {
  F value;
  for (int j = 0; j < WIDTH; j++) value[j] = x[(lane + (j < left ? j : 0)) / N];
  return value;
}

#endif

// A chunk: CHUNK vectors of WIDTH lanes from `first` on. FULL: all lanes exist.
template <bool FULL> struct Chunk {
  const Job &j;
  const long first, L, of_current, of_output;  // of_current, of_output: lanes between two steps in memory
  const bool large;
  F s[STATES][CHUNK], p[SOME(PARAMETERS)][CHUNK];

  METHOD Chunk(const Job &job, long from)
      : j(job), first(from), L(job.B * job.N), of_current(j.current_batch * j.N), of_output(j.output_batch * j.N),
        large(of_output > 1 << 15) {
    for (int v = 0; v < vectors(); v++) {
      for (int q = 0; q < STATES; q++) s[q][v] = j.state ? load(j.state + state_at(q) + lane(v), left(v)) : LANE(0);
      for (int q = 0; q < PARAMETERS; q++) p[q][v] = load_param(j.params + q * j.N, lane(v), j.N, left(v));
    }
  }
  METHOD long lane(int v) const { return first + v * WIDTH; }
  METHOD long left(int v) const { return FULL ? WIDTH : L - lane(v); }
  METHOD int vectors() const { return FULL ? CHUNK : (int)((L - first + WIDTH - 1) / WIDTH); }
  // offset of a step's lanes in output and in current, and of a state
  METHOD long at(long t, long k) const { return (t * j.K + k) * of_output; }
  METHOD long current_at(long t, long k) const { return (j.constant ? t : t * j.K + k) * of_current; }
  METHOD long state_at(int q) const { return q * j.batch * j.N; }
  METHOD F keep(long t, int v) const { return load_keep(j.keep + t * j.batch, lane(v), j.N, left(v)); }
  METHOD void begin(long t) {
    if (j.keep)
      for (int v = 0; v < vectors(); v++) {
        const F factor = keep(t, v);
        for (int q = 0; q < STATES; q++) s[q][v] = s[q][v] * factor;
      }
  }
  template <class Keep> METHOD void step(const float *from, int v, F &out, const Keep &keep) {
    F local[ALL], own[SOME(PARAMETERS)];
    for (int q = 0; q < STATES; q++) local[q] = s[q][v];
    for (int q = 0; q < PARAMETERS; q++) own[q] = p[q][v];
    whole_step(load(from + lane(v), left(v)), local, own, j.uniforms, out, keep);
    for (int q = 0; q < STATES; q++) s[q][v] = local[q];
  }
};

struct Forget {
  METHOD void operator()(int, const F *) const {}
};

// Place of the states of one vector in one step within scratch.
struct Path {
  float *first;
  long stride;  // between two numbers of a state
  METHOD float *at(int m, int q) const { return first + (m * KEPT_STATES + q) * stride; }
};
struct Write : Path {
  METHOD void operator()(int m, const F *s) const {
    for (int q = 0; m < KEPT && q < KEPT_STATES; q++) store(at(m, q), s[q], WIDTH);
  }
};
struct Read : Path {
  METHOD void operator()(int m, F *s) const {
    for (int q = 0; q < KEPT_STATES; q++) s[q] = load(at(m, q), WIDTH);
  }
};

template <bool FULL> FUNCTION void forward_chunk(const Job &j, long first) {
  Chunk<FULL> c(j, first);
  for (long t = 0; t < j.T; t++) {
    c.begin(t);
    for (long k = 0; k < j.K; k++) {
      const float *from = j.current + c.current_at(t, k);
      float *to = j.output + c.at(t, k);
      for (int v = 0; v < c.vectors(); v++) {
        F out;
        FETCH(from + c.of_current + c.lane(v), 0);
        FETCH(to + c.of_output + c.lane(v), 1);
        c.step(from, v, out, Forget());
        store(to + c.lane(v), out, c.left(v));
      }
      if (j.trace)
        for (int v = 0; v < c.vectors(); v++) store(j.trace + c.at(t, k) + c.lane(v), c.s[0][v], c.left(v));
    }
  }
  if (j.last)
    for (int q = 0; q < STATES; q++)
      for (int v = 0; v < c.vectors(); v++) store(j.last + c.state_at(q) + c.lane(v), c.s[q][v], c.left(v));
}

template <bool FULL> FUNCTION void backward_chunk(const Job &j, long first, float *scratch, long stride) {
  Chunk<FULL> c(j, first);
  for (long t = 0; t < j.T; t++) {
    c.begin(t);
    for (long k = 0; k < j.K; k++) {
      const float *from = j.current + c.current_at(t, k);
      float *to = scratch + (t * j.K + k) * KEPT * KEPT_STATES * stride;
      for (int v = 0; v < c.vectors(); v++) {
        F out;
        FETCH(from + c.of_current + c.lane(v), 0);
        c.step(from, v, out, Write{{to + v * WIDTH, stride}});
      }
    }
  }
  F g[STATES][CHUNK], gp[SOME(PARAMETERS)][CHUNK], sum[CHUNK];
  for (int v = 0; v < c.vectors(); v++) {
    for (int q = 0; q < STATES; q++)
      g[q][v] = j.grad_last ? load(j.grad_last + c.state_at(q) + c.lane(v), c.left(v)) : LANE(0);
    for (int q = 0; q < SOME(PARAMETERS); q++) gp[q][v] = LANE(0);
    sum[v] = LANE(0);
  }
  for (long t = j.T - 1; t >= 0; t--) {
    for (long k = j.K - 1; k >= 0; k--) {
      const float *from = j.current + c.current_at(t, k);
      float *path = scratch + (t * j.K + k) * KEPT * KEPT_STATES * stride;
      for (int v = 0; v < c.vectors(); v++) {
        F own[SOME(PARAMETERS)], gs[STATES], gradient[SOME(PARAMETERS)];
        for (int q = 0; q < STATES; q++) gs[q] = g[q][v];
        for (int q = 0; q < PARAMETERS; q++) own[q] = c.p[q][v], gradient[q] = gp[q][v];
        FETCH(from - c.of_current + c.lane(v), 0);
        if (j.grad_output) FETCH(j.grad_output + c.at(t, k) - c.of_output + c.lane(v), 0);
        FETCH(j.grad_current + c.current_at(t, k) - c.of_current + c.lane(v), 1);
        const F go = j.grad_output ? load(j.grad_output + c.at(t, k) + c.lane(v), c.left(v)) : LANE(0);
        F gi = j.constant ? sum[v] : LANE(0);
        const Read states{{path + v * WIDTH, stride}};
        whole_step_adjoint(load(from + c.lane(v), c.left(v)), states, own, j.uniforms, go, gs, gradient, gi);
        for (int q = 0; q < STATES; q++) g[q][v] = gs[q];
        for (int q = 0; q < PARAMETERS; q++) gp[q][v] = gradient[q];
        if (j.constant) sum[v] = gi;
        else store(j.grad_current + c.current_at(t, k) + c.lane(v), gi, c.left(v));
      }
    }
    for (int v = 0; v < c.vectors(); v++) {
      if (j.constant) store(j.grad_current + c.current_at(t, 0) + c.lane(v), sum[v], c.left(v)), sum[v] = LANE(0);
      if (j.keep) {
        const F factor = c.keep(t, v);
        for (int q = 0; q < STATES; q++) g[q][v] = g[q][v] * factor;
      }
    }
  }
  for (int v = 0; v < c.vectors(); v++) {
    if (j.grad_state)
      for (int q = 0; q < STATES; q++) store(j.grad_state + c.state_at(q) + c.lane(v), g[q][v], c.left(v));
    if (j.grad_params)
      for (int q = 0; q < PARAMETERS; q++) store(j.grad_params + q * c.L + c.lane(v), gp[q][v], c.left(v));
  }
}

#ifdef GPU

// One thread per lane. A kernel's arguments are plain pointers and numbers, so that any launcher can pass them.
#define THREAD_LANE ((long)blockIdx.x * blockDim.x + threadIdx.x)

extern "C" __global__ void spiky_forward(const float *__restrict__ current, const float *__restrict__ state,
                                         const float *__restrict__ params, const float *__restrict__ keep,
                                         float *__restrict__ output, float *__restrict__ last, float *__restrict__ trace,
                                         long T, long K, long B, long N, int constant UNIFORM_PARAMETERS) {
  const float uniforms[] = {UNIFORM_VALUES};
  Job j = {};
  j.current = current, j.state = state, j.params = params, j.keep = keep, j.uniforms = uniforms;
  j.output = output, j.last = last, j.trace = trace;
  j.T = T, j.K = K, j.B = B, j.N = N, j.constant = constant;
  j.batch = j.current_batch = j.output_batch = B;
  if (THREAD_LANE < B * N) forward_chunk<true>(j, THREAD_LANE);
}

// Runs lanes `first` to `first + lanes`; scratch is [T K, STATES, lanes].
extern "C" __global__ void spiky_backward(const float *__restrict__ current, const float *__restrict__ state,
                                          const float *__restrict__ params, const float *__restrict__ keep,
                                          const float *__restrict__ grad_output, const float *__restrict__ grad_last,
                                          float *__restrict__ grad_current, float *__restrict__ grad_state,
                                          float *__restrict__ grad_params, float *__restrict__ scratch, long T, long K,
                                          long B, long N, int constant, long first, long lanes UNIFORM_PARAMETERS) {
  const float uniforms[] = {UNIFORM_VALUES};
  Job j = {};
  j.current = current, j.state = state, j.params = params, j.keep = keep, j.uniforms = uniforms;
  j.grad_output = grad_output, j.grad_last = grad_last, j.grad_current = grad_current;
  j.grad_state = grad_state, j.grad_params = grad_params;
  j.T = T, j.K = K, j.B = B, j.N = N, j.constant = constant;
  j.batch = j.current_batch = j.output_batch = B;
  if (THREAD_LANE < lanes) backward_chunk<true>(j, first + THREAD_LANE, scratch + THREAD_LANE, lanes);
}

#else

#define LANES (CHUNK * WIDTH)

static void forward_lanes(const Job &j, long first) {
  if (first + LANES <= j.B * j.N) forward_chunk<true>(j, first);
  else forward_chunk<false>(j, first);
}

// A single step, as a recurrent layer runs it. Its states are read from memory and written back, so chunks would not help.
template <bool FULL> struct Lane {
  const long at, rest;
  F s[ALL], p[SOME(PARAMETERS)], factor;
  METHOD long left() const { return FULL ? WIDTH : rest; }
  METHOD Lane(const Job &j, long first, long L) : at(first), rest(L - first) {
    factor = j.keep ? load_keep(j.keep, at, j.N, left()) : LANE(1);
    for (int q = 0; q < STATES; q++) s[q] = j.state ? load(j.state + q * L + at, left()) * factor : LANE(0);
    for (int q = 0; q < PARAMETERS; q++) p[q] = load_param(j.params + q * j.N, at, j.N, left());
  }
};

template <bool FULL> INLINE void lane_forward(const Job &j, long first, long L) {
  Lane<FULL> lane(j, first, L);
  F out;
  whole_step(load(j.current + first, lane.left()), lane.s, lane.p, j.uniforms, out, Forget());
  store(j.output + first, out, lane.left());
  if (j.trace) store(j.trace + first, lane.s[0], lane.left());
  for (int q = 0; j.last && q < STATES; q++) store(j.last + q * L + first, lane.s[q], lane.left());
}

template <bool FULL> INLINE void lane_backward(const Job &j, long first, long L) {
  Lane<FULL> lane(j, first, L);
  const long left = lane.left();
  const F drive = load(j.current + first, left);
  F path[KEPT][KEPT_STATES], out, g[SOME(STATES)], gp[SOME(PARAMETERS)] = {}, gi = LANE(0);
  const auto keep = [&](int m, const F *s) {
    for (int q = 0; m < KEPT && q < KEPT_STATES; q++) path[m][q] = s[q];
  };
  if (KEPT == 1) keep(0, lane.s);
  else whole_step(drive, lane.s, lane.p, j.uniforms, out, keep);
  for (int q = 0; q < STATES; q++) g[q] = j.grad_last ? load(j.grad_last + q * L + first, left) : LANE(0);
  const F go = j.grad_output ? load(j.grad_output + first, left) : LANE(0);
  const auto states = [&](int m, F *s) {
    for (int q = 0; q < KEPT_STATES; q++) s[q] = path[m][q];
  };
  whole_step_adjoint(drive, states, lane.p, j.uniforms, go, g, gp, gi);
  store(j.grad_current + first, gi, left);
  for (int q = 0; j.grad_state && q < STATES; q++) store(j.grad_state + q * L + first, g[q] * lane.factor, left);
  for (int q = 0; j.grad_params && q < PARAMETERS; q++) store(j.grad_params + q * L + first, gp[q], left);
}

static void forward_once(const Job &j, long L) {
  long first = 0;
  for (; first + WIDTH <= L; first += WIDTH) lane_forward<true>(j, first, L);
  if (first < L) lane_forward<false>(j, first, L);
}

static void backward_once(const Job &j, long L) {
  long first = 0;
  for (; first + WIDTH <= L; first += WIDTH) lane_backward<true>(j, first, L);
  if (first < L) lane_backward<false>(j, first, L);
}
// Whether a job is a single step of contiguous rows.
static bool single(const Job &j) {
  return j.T * j.K == 1 && j.batch == j.B && j.current_batch == j.B && j.output_batch == j.B && j.threads <= 1;
}

extern "C" void spiky_forward(const Job *j) {
  const long L = j->B * j->N;
  if (single(*j)) return forward_once(*j, L);
  if (j->threads <= 1) {  // an OpenMP team of one thread takes longer than a small layer
    for (long first = 0; first < L; first += LANES) forward_lanes(*j, first);
    return;
  }
#pragma omp parallel for num_threads(j->threads)
  for (long first = 0; first < L; first += LANES) forward_lanes(*j, first);
}

static bool backward_lanes(const Job &j, long first, float *scratch) {
  if (!scratch) return false;
  if (first + LANES <= j.B * j.N) backward_chunk<true>(j, first, scratch, LANES);
  else backward_chunk<false>(j, first, scratch, LANES);
  return true;
}

extern "C" int spiky_backward(const Job *j) {
  const long L = j->B * j->N, room = sizeof(float) * j->T * j->K * KEPT * KEPT_STATES * LANES;
  int failed = 0;
  if (single(*j)) {
    backward_once(*j, L);
    return failed;
  }
  if (j->threads <= 1) {
    float *scratch = (float *)malloc(room);
    for (long first = 0; first < L; first += LANES) failed |= !backward_lanes(*j, first, scratch);
    free(scratch);
    return failed;
  }
#pragma omp parallel num_threads(j->threads) reduction(| : failed)
  {
    float *scratch = (float *)malloc(room);
    failed |= !scratch;
#pragma omp for
    for (long first = 0; first < L; first += LANES) failed |= !backward_lanes(*j, first, scratch);
    free(scratch);
  }
  return failed;
}

#endif

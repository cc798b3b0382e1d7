// Spikes as bits on a GPU: a layer's input as it is kept for the backward pass where layers run one by one.
//
// The words of 64 inputs are those of the CPU. A warp writes or reads halves of words, of 32 neighbours: the same half in every row that
// it visits. So a thread divides once to find its place, and from row to row it only adds. `threads` is a multiple of those of a row.

struct Place {
  long halves, half, input, row, step;  // step: rows between two visits
  __device__ __forceinline__ Place(long inputs, long threads) {
    const long thread = (long)blockIdx.x * blockDim.x + threadIdx.x;
    halves = (inputs + 63) / 64 * 2, half = thread / 32 % halves, input = half * 32 + thread % 32;
    row = thread / 32 / halves, step = threads / 32 / halves;
  }
};

extern "C" __global__ void spiky_pack(const float *__restrict__ x, unsigned *__restrict__ bits, long rows, long inputs, long threads) {
  const Place p(inputs, threads);
  if (p.row >= p.step) return;  // whole warps of the last block
  for (long row = p.row; row < rows; row += p.step) {
    const unsigned vote = __ballot_sync(0xffffffffu, p.input < inputs && x[row * inputs + p.input] != 0.0f);
    if (p.input % 32 == 0) bits[row * p.halves + p.half] = vote;
  }
}

extern "C" __global__ void spiky_unpack(const unsigned *__restrict__ bits, float *__restrict__ x, long rows, long inputs, long threads) {
  const Place p(inputs, threads);
  if (p.row >= p.step || p.input >= inputs) return;
  for (long row = p.row; row < rows; row += p.step) x[row * inputs + p.input] = (float)(bits[row * p.halves + p.half] >> p.input % 32 & 1);
}

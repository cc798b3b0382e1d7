// Spikes as bits on a GPU: a layer's input as it is kept for the backward pass.
//
// The words of 64 inputs are those of the CPU. A warp writes half of a word: it reads 32 neighbours and votes.

extern "C" __global__ void spiky_pack(const float *__restrict__ x, unsigned *__restrict__ bits, long rows, long inputs) {
  const long halves = (inputs + 63) / 64 * 2, thread = (long)blockIdx.x * blockDim.x + threadIdx.x;
  const long half = thread / 32, row = half / halves, input = half % halves * 32 + thread % 32;
  const bool inside = row < rows && input < inputs;
  const unsigned vote = __ballot_sync(0xffffffffu, inside && x[row * inputs + input] != 0.0f);
  if (row < rows && thread % 32 == 0) bits[half] = vote;
}

extern "C" __global__ void spiky_unpack(const unsigned *__restrict__ bits, float *__restrict__ x, long rows, long inputs) {
  const long halves = (inputs + 63) / 64 * 2, place = (long)blockIdx.x * blockDim.x + threadIdx.x;
  const long row = place / inputs, input = place % inputs;
  if (row < rows) x[place] = (float)(bits[row * halves + input / 32] >> input % 32 & 1);
}

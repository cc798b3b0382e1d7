"""A CUDA device made of the host: the kernels' CUDA text, compiled by the host's compiler, its threads run one after the other."""

import ctypes
from functools import cache

import numpy as np

from spiky_rl.kernels import compiler, cupy_backend, programs

BEFORE = """
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <type_traits>
#include <utility>
namespace host {
%s
}
static host::F all(float x) {
  host::F lanes;
  for (int i = 0; i < (int)(sizeof lanes / sizeof x); i++) lanes[i] = x;
  return lanes;
}
#undef WIDTH
#undef METHOD
#undef INLINE
#undef LANE

#define GPU
#define __device__
#define __global__
#define __forceinline__ inline __attribute__((always_inline))
struct Index { unsigned x; };
static Index threadIdx, blockIdx, blockDim;
"""
"""What CUDA has built in; and the CPU's lanes, in a room of their own."""
FUNCTIONS = """
#define FUNCTION_OF_CPU(name) static float cpu_##name(float x) { return host::lane_##name(all(x))[0]; }
FUNCTION_OF_CPU(exp)
FUNCTION_OF_CPU(tanh)
FUNCTION_OF_CPU(tan)
#define expf cpu_exp
#define tanhf cpu_tanh
#define tanf cpu_tan
"""
"""exp, tanh and tan are those of the CPU's lanes: with them every bit can be compared."""
AFTER = """
template <typename... A, size_t... I>
static void thread(void (*kernel)(A...), void *const *values, std::index_sequence<I...>) {
  kernel(*(A *)values[I]...);
}
// As cuLaunchKernel: reads every argument, by the type that the kernel says, from where `values` points to. Returns 0, or
// which argument has another type (`types`: bytes, negative for a floating-point number), or -1 for another number of them.
template <typename... A>
static long launch(void (*kernel)(A...), unsigned blocks, unsigned threads, void *const *values, const long *types, long n) {
  const long expected[] = {(std::is_floating_point<A>::value ? -1 : 1) * (long)sizeof(A)...};
  if (n != sizeof...(A)) return -1;
  for (long i = 0; i < n; i++)
    if (types[i] != expected[i]) return i + 1;
  blockDim.x = threads;
  for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++)
    for (threadIdx.x = 0; threadIdx.x < threads; threadIdx.x++) thread(kernel, values, std::index_sequence_for<A...>());
  return 0;
}
extern "C" long launch_0(unsigned blocks, unsigned threads, void *const *values, const long *types, long n) {
  return launch(spiky_forward, blocks, threads, values, types, n);
}
extern "C" long launch_1(unsigned blocks, unsigned threads, void *const *values, const long *types, long n) {
  return launch(spiky_backward, blocks, threads, values, types, n);
}
"""


def before():
    return BEFORE % programs.header("lanes")


@cache
def kernels(key):
    """A neuron's CUDA text, compiled for the host."""
    text = "\n".join([before(), FUNCTIONS, programs.source(programs.KNOWN[key]), AFTER])
    return compiler.library(text, f"{key} on a device of the host")


def launch(key, which, values, current):
    """In the place of `cupy_backend._launch`: the same values, for as many threads."""
    values = [np.array(np.int64(v) if isinstance(v, int) else v) for v in values]  # an int as CuPy passes it
    types = [-v.itemsize if v.dtype.kind == "f" else v.itemsize for v in values]
    wrong = getattr(kernels(key), f"launch_{which}")(
        cupy_backend.blocks(current),
        cupy_backend.BLOCK,
        (ctypes.c_void_p * len(values))(*(v.ctypes.data for v in values)),
        (ctypes.c_long * len(types))(*types),
        ctypes.c_long(len(values)),
    )
    assert (
        wrong == 0
    ), f"argument {wrong} of kernel {which} has another type than its text says (-1: another number)"

"""A CUDA device made of the host: CUDA text, compiled by the host's compiler, whose blocks run one after the other.

The threads of a block run one after the other too, or, where the text has barriers, as fibers: each runs up to its next barrier,
and goes on when all that the barrier is for have come to theirs. A device promises no order of blocks or of threads between two
barriers: `ordered` runs them in another one than ascending.
"""

import contextlib
import ctypes
import re
from functools import cache

import numpy as np

from spiky_rl.kernels import compiler, programs
from spiky_rl.kernels.backends import cupy as cupy_backend

ASCENDING, REVERSED = 0, 1
"""Orders of blocks and threads; each number above these is a permutation, another one from barrier to barrier."""
PERMUTED = 7
_order = ASCENDING

BEFORE = """
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <type_traits>
#include <ucontext.h>
#include <utility>
#include <vector>
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
#define __launch_bounds__(...)
#define __ffs(bits) __builtin_ffs((int)(bits))
#define __restrict__
struct Index { unsigned x, y, z; };
static Index threadIdx, blockIdx, blockDim, gridDim;
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
FIBERS = """
enum { RUNNING, AT_BLOCK, AT_WARP, ENDED };
struct Fiber { ucontext_t context; std::vector<char> stack; int where, line, vote; };
static std::vector<Fiber> fibers;
static ucontext_t scheduler;
static unsigned running;
static const unsigned WARP = 32;
static void wait(int where, int line) {
  fibers[running].where = where, fibers[running].line = line;
  swapcontext(&fibers[running].context, &scheduler);
}
static unsigned ballot(unsigned mask, int vote, int line) {
  fibers[running].vote = vote != 0;
  wait(AT_WARP, line);
  unsigned found = 0;
  for (unsigned i = 0; i < WARP && running / WARP * WARP + i < fibers.size(); i++) {
    const Fiber &other = fibers[running / WARP * WARP + i];
    if (other.where != ENDED && (mask >> i & 1)) found |= (unsigned)other.vote << i;
  }
  wait(AT_WARP, -line);  // nobody votes again before all have counted
  return found;
}
static unsigned atomicOr(unsigned *to, unsigned bits) {
  const unsigned before = *to;
  *to |= bits;
  return before;
}
#define __syncthreads() wait(AT_BLOCK, __LINE__)
#define __syncwarp(...) wait(AT_WARP, __LINE__)
#define __ballot_sync(mask, vote) ballot(mask, vote, __LINE__)
"""
"""What threads of a block wait for each other with. The scheduler is in `AFTER`."""
AFTER = """
static const long OTHER_BARRIERS = -2;
static unsigned order, seed;  // 0: ascending, 1: descending, else the first seed of permutations
static std::vector<unsigned> drawn(unsigned count) {
  std::vector<unsigned> places(count);
  for (unsigned i = 0; i < count; i++) places[i] = order == 1 ? count - 1 - i : i;
  if (order > 1)
    for (unsigned i = count; i > 1; i--) {
      seed = seed * 1664525u + 1013904223u;
      std::swap(places[i - 1], places[(seed >> 8) % i]);
    }
  return places;
}
template <typename... A, size_t... I>
static void thread(void (*kernel)(A...), void *const *values, std::index_sequence<I...>) {
  kernel(*(A *)values[I]...);
}
static void place(unsigned i) {
  threadIdx = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
}
#ifdef WAITING
static void (*entry)(void *);
static void *entered;
static void begin() {
  entry(entered);
  fibers[running].where = ENDED;
  swapcontext(&fibers[running].context, &scheduler);
}
// Lets go on those from `first` to `last` if all of them that have not ended wait at one and the same barrier of this kind.
static bool release(unsigned first, unsigned last, int where) {
  int line = 0, waiting = 0;
  for (unsigned i = first; i < last; i++) {
    if (fibers[i].where == ENDED) continue;
    if (fibers[i].where != where || (waiting++ && fibers[i].line != line)) return false;
    line = fibers[i].line;
  }
  for (unsigned i = first; i < last; i++)
    if (fibers[i].where == where) fibers[i].where = RUNNING;
  return waiting > 0;
}
template <typename Body> static long block(const Body &body) {
  const unsigned count = blockDim.x * blockDim.y * blockDim.z;
  entry = [](void *whole) { (*(const Body *)whole)(); }, entered = (void *)&body;
  fibers.resize(count);
  for (Fiber &fiber : fibers) {
    fiber.stack.resize(1 << 16), fiber.where = RUNNING;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data(), fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, begin, 0);
  }
  for (unsigned ended = 0;;) {
    for (unsigned i : drawn(count)) {
      running = i;
      if (fibers[i].where != RUNNING) continue;
      place(i);
      swapcontext(&scheduler, &fibers[i].context);
      ended += fibers[i].where == ENDED;
    }
    if (ended == count) return 0;
    bool released = false;
    for (unsigned i = 0; i < count; i += WARP) released |= release(i, i + WARP < count ? i + WARP : count, AT_WARP);
    if (!released && !release(0, count, AT_BLOCK)) return OTHER_BARRIERS;
  }
}
#else
template <typename Body> static long block(const Body &body) {
  for (unsigned i : drawn(blockDim.x * blockDim.y * blockDim.z)) place(i), body();
  return 0;
}
#endif
// As cuLaunchKernel: reads every argument, by the type that the kernel says, from where `values` points to. Returns 0, or
// which argument has another type (`types`: bytes, negative for a floating-point number), or -1 for another number of them,
// or OTHER_BARRIERS where threads wait for each other at different ones.
template <typename... A>
static long launch(void (*kernel)(A...), const unsigned *grid, const unsigned *threads, unsigned shared, void *const *values,
                   const long *types, long n, unsigned given) {
  const long expected[] = {(std::is_floating_point<A>::value ? -1 : 1) * (long)sizeof(A)...};
  if (n != sizeof...(A)) return -1;
  for (long i = 0; i < n; i++)
    if (types[i] != expected[i]) return i + 1;
  gridDim = {grid[0], grid[1], grid[2]}, blockDim = {threads[0], threads[1], threads[2]};
#ifdef SHARED
  if (shared > sizeof shared_memory) return -1;
#endif
  order = seed = given;
  for (unsigned i : drawn(gridDim.x * gridDim.y * gridDim.z)) {
    blockIdx = {i % gridDim.x, i / gridDim.x % gridDim.y, i / gridDim.x / gridDim.y};
#ifdef SHARED
    memset(shared_memory, 0xff, sizeof shared_memory);  // what no thread has written is no number
#endif
    if (long wrong = block([&] { thread(kernel, values, std::index_sequence_for<A...>()); })) return wrong;
  }
  return 0;
}
"""
LAUNCH = """
extern "C" long launch_%(name)s(const unsigned *grid, const unsigned *threads, unsigned shared, void *const *values,
                                const long *types, long n, unsigned order) {
  return launch(%(name)s, grid, threads, shared, values, types, n, order);
}
"""
SHARED = """
#define SHARED
alignas(16) static char shared_memory[1 << 18];
"""
KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(")
DYNAMIC = re.compile(r"extern\s+__shared__\s+((?:\w+\s+)*\w+)\s+(\w+)\s*\[\s*\]\s*;")


def before():
    return BEFORE % programs.read_header("lanes")


def on_host(code):
    """CUDA text as text for the host's compiler, with a `launch_...` for every kernel in it."""
    waiting = re.search(r"__sync(threads|warp)|__ballot_sync", code)
    names = KERNEL.findall(code)
    code, dynamic = DYNAMIC.subn(r"\1 *const \2 = (\1 *)shared_memory;", code)
    parts = [before(), SHARED if dynamic else "", "#define __shared__ static", FUNCTIONS]
    parts += ["#define WAITING", FIBERS] if waiting else []
    return "\n".join([*parts, code, AFTER, *(LAUNCH % {"name": name} for name in names)])


@cache
def compiled(code, of):
    """The kernels of a CUDA text, which compile in half the time with -O1."""
    return compiler.compile_library(on_host(code), f"{of} on a device of the host", ("-O1",))


@contextlib.contextmanager
def ordered(order):
    """Run the blocks and threads of what is launched in another ``order``: `REVERSED`, or the seed of permutations."""
    global _order  # pylint: disable=global-statement
    before, _order = _order, order
    try:
        yield
    finally:
        _order = before


def pack(values):
    """Return the arguments of a launch as they lie in memory: an int as CuPy passes it, all others as they are."""
    return [np.array(np.int64(v) if isinstance(v, int) else v) for v in values]


def run(library, name, grid, block, values, shared=0):
    """Launch a kernel; raises AssertionError where it would be launched with something else than its text says."""
    values = pack(values)
    types = [-v.itemsize if v.dtype.kind == "f" else v.itemsize for v in values]
    sizes = [(ctypes.c_uint * 3)(*size, *(1,) * (3 - len(size))) for size in (grid, block)]
    wrong = getattr(library, f"launch_{name}")(
        *sizes,
        ctypes.c_uint(shared),
        (ctypes.c_void_p * len(values))(*(v.ctypes.data for v in values)),
        (ctypes.c_long * len(types))(*types),
        ctypes.c_long(len(values)),
        ctypes.c_uint(_order),
    )
    assert wrong != -2, f"threads of one block of {name} wait at different barriers"
    assert (
        wrong == 0
    ), f"argument {wrong} of kernel {name} has another type than its text says (-1: another number)"


def launch(key, which, values, current, grid, block=cupy_backend.BLOCK, shared=0):
    """In the place of `Cupy._launch`."""
    name = key.removesuffix(" recurrent")
    kernel = "spiky" if name == key else "spiky_recurrent"
    library = compiled(cupy_backend.build_source(name, name != key), key)
    run(library, f"{kernel}_{('forward', 'backward')[which]}", (grid,), (block,), values, shared)

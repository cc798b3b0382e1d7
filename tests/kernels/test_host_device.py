"""Blocks of threads on a device of the host: barriers, shared memory, votes of a warp, and what would be undefined on CUDA."""

import numpy as np
import pytest

from tests.kernels import host_device
from tests.kernels.cases import CPU

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CPU.get_unavailable_reason() is not None,
        reason=f"no compiled kernels: {CPU.get_unavailable_reason()}",
    ),
]

THREADS, BLOCKS = 96, 3
SUMS = """
extern "C" __global__ void __launch_bounds__(1024) sums(const float *x, float *y) {
  __shared__ float part[1024];
  const int i = threadIdx.x;
  part[i] = x[blockIdx.x * blockDim.x + i];
  for (int count = blockDim.x; count > 1; count = (count + 1) / 2) {
    __syncthreads();
    const float other = i < count / 2 ? part[i + (count + 1) / 2] : 0.0f;
    __syncthreads();
    part[i] += other;
  }
  if (i == 0) y[blockIdx.x] = part[0];
}
"""
DYNAMIC = """
extern "C" __global__ void turned(const float *x, float *y, int columns) {
  extern __shared__ float rows[];
  const int place = threadIdx.y * blockDim.x + threadIdx.x;
  rows[place] = x[(blockIdx.y * gridDim.x + blockIdx.x) * blockDim.x * blockDim.y + place];
  __syncthreads();
  y[(blockIdx.y * gridDim.x + blockIdx.x) * blockDim.x * blockDim.y + place] =
      rows[threadIdx.x * blockDim.y + threadIdx.y];
}
"""
VOTES = """
extern "C" __global__ void votes(const float *x, int *y) {
  const int i = threadIdx.x;
  if (i / 32 == 1) return;  // a whole warp has ended
  y[i] = (int)__ballot_sync(0xffffffffu, x[i] > 0.0f);
}
"""
UNWRITTEN = """
extern "C" __global__ void unwritten(float *y) {
  extern __shared__ float rows[];
  y[threadIdx.x] = rows[threadIdx.x];
}
"""
APART = """
extern "C" __global__ void apart(float *y) {
  if (threadIdx.x < 5) {
    __syncthreads();
    y[threadIdx.x] = 1.0f;
  } else {
    __syncthreads();
    y[threadIdx.x] = 2.0f;
  }
}
"""
PLACES = """
extern "C" __global__ void places(int *count, int *y) {
  y[(blockIdx.y * gridDim.x + blockIdx.x) * blockDim.x + threadIdx.x] = (*count)++;
}
"""
NEIGHBOURS = """
extern "C" __global__ void neighbours(const float *x, float *y) {
  extern __shared__ float row[];
  const int i = threadIdx.x;
  row[i] = x[i];
  __syncthreads();
  y[i] = row[i ? i - 1 : 0];
}
"""
BEFORE = """
extern "C" __global__ void before(int *y) { y[blockIdx.x] = blockIdx.x ? y[blockIdx.x - 1] + 1 : 0; }
"""
ORDERS = (host_device.REVERSED, host_device.PERMUTED)


def run(code, name, grid, block, *values, shared=0):
    arguments = [v.ctypes.data if isinstance(v, np.ndarray) else v for v in values]
    host_device.run(host_device.compiled(code, name), name, grid, block, arguments, shared)


def test_threads_of_a_block_share_memory_and_wait_for_each_other():
    x, y = np.arange(BLOCKS * THREADS, dtype=np.float32), np.zeros(BLOCKS, np.float32)
    run(SUMS, "sums", (BLOCKS,), (THREADS,), x, y)
    assert np.array_equal(y, x.reshape(BLOCKS, THREADS).sum(1))


def test_a_barrier_that_is_missing_is_seen():
    x, y = np.arange(BLOCKS * THREADS, dtype=np.float32), np.zeros(BLOCKS, np.float32)
    faulty = SUMS.replace("    __syncthreads();\n    const", "    const")
    run(faulty, "sums", (BLOCKS,), (THREADS,), x, y)
    assert not np.array_equal(y, x.reshape(BLOCKS, THREADS).sum(1))


def test_blocks_and_grids_have_two_sides_and_memory_of_a_size_that_the_launch_says():
    x, y = np.arange(6 * 12, dtype=np.float32), np.zeros(6 * 12, np.float32)
    run(DYNAMIC, "turned", (2, 3), (4, 3), x, y, np.int32(4), shared=48)
    expected = x.reshape(6, 12)[:, [i * 3 + j for j in range(3) for i in range(4)]]
    assert np.array_equal(y.reshape(6, 12), expected)


def test_a_warp_votes_by_itself_whatever_the_others_do():
    x, y = np.random.default_rng(0).standard_normal(96).astype(np.float32), np.zeros(96, np.int32)
    run(VOTES, "votes", (1,), (96,), x, y)
    words = [int(sum(1 << i for i in range(32) if x[w * 32 + i] > 0)) for w in range(3)]
    assert np.array_equal(y.view(np.uint32), np.repeat([words[0], 0, words[2]], 32).astype(np.uint32))


def test_shared_memory_that_nobody_has_written_is_no_number():
    y = np.zeros(8, np.float32)
    run(UNWRITTEN, "unwritten", (1,), (8,), y, shared=32)
    assert np.isnan(y).all()


def test_threads_that_wait_at_different_barriers_are_caught():
    with pytest.raises(AssertionError, match="different barriers"):
        run(APART, "apart", (1,), (8,), np.zeros(8, np.float32))


@pytest.mark.parametrize(
    "code", [PLACES, PLACES.replace("}\n", "  __syncthreads();\n}\n")], ids=["plain", "fibers"]
)
def test_blocks_and_threads_run_in_the_order_that_is_asked_for(code):
    found = []
    for order in (host_device.ASCENDING, *ORDERS, host_device.PERMUTED + 1):
        count, y = np.zeros(1, np.int32), np.full(2 * 3 * 40, -1, np.int32)
        with host_device.ordered(order):
            run(code, "places", (2, 3), (40,), count, y)
        assert sorted(y) == list(range(240)), "every thread runs once"
        assert all(np.ptp(block) == 39 for block in y.reshape(6, 40)), "one block after the other"
        found.append(y)
    ascending, backwards, *permuted = found
    assert list(ascending) == list(range(240)) and list(backwards) == list(range(240))[::-1]
    assert len({tuple(y) for y in found}) == 4
    for y in permuted:
        assert (
            len({tuple(block - block.min()) for block in y.reshape(6, 40)}) == 6
        ), "another one in each block"


def test_what_is_right_is_right_in_every_order():
    x, y = np.arange(40, dtype=np.float32), np.zeros(40, np.float32)
    for order in ORDERS:
        with host_device.ordered(order):
            run(NEIGHBOURS, "neighbours", (1,), (40,), x, y, shared=160)
        assert np.array_equal(y, np.maximum(x - 1, 0))


def test_what_an_ascending_order_hides_is_seen_in_the_others():
    x, y, z = np.arange(40, dtype=np.float32), np.zeros(40, np.float32), np.zeros(40, np.int32)
    faulty = NEIGHBOURS.replace("  __syncthreads();\n", "")
    right = {}
    for order in (host_device.ASCENDING, *ORDERS):
        with host_device.ordered(order):
            run(faulty, "neighbours", (1,), (40,), x, y, shared=160)
            run(BEFORE, "before", (40,), (1,), z)
        right[order] = np.array_equal(y, np.maximum(x - 1, 0)), np.array_equal(z, np.arange(40))
        z[:] = 0
    assert right == {order: (order == host_device.ASCENDING,) * 2 for order in right}

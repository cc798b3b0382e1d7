"""snnTorch's leaky neuron, which resets one step late, for `test_bench_classify`: V <- a V + I - s_before threshold."""

from spiky_rl.neurons.base import Neuron, parameter


class DelayedReset(Neuron):
    """snnTorch's leaky neuron with its late reset."""

    states = ("v",)

    class Options(Neuron.Options):
        tau: float = parameter(2.0, "membrane time constant", low=1e-3, unit="ms", transform="decay")
        threshold: float = parameter(1.0, "potential at which a spike is emitted", low=1e-3, unit="1")

    def step(self, ops, current, s, p):
        v = p.decay * s.v + current - p.threshold * ops.heaviside(s.v - p.threshold)
        return ops.spike(v - p.threshold), s.replace(v=v)

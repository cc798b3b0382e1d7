"""In sinabs, of an environment of its own (sinabs pins nir to 1.0.4): a policy.nir and currents in, spikes of every layer out.

Usage: sinabs_case.py policy.nir observations.npy spikes.npz STEPS, with observations [T, O] of which each begins at rest.
"""

import sys

import nir
import numpy as np
import sinabs.layers
import torch
from sinabs.activation import MembraneReset, SingleSpike
from sinabs.nir import from_nir


def main(path, observations, out, steps):
    graph = nir.read(path)
    dt = float(graph.metadata["dt"])
    net = from_nir(graph, batch_size=1)
    layers = [m for m in net.modules() if isinstance(m, sinabs.layers.LIF)]
    nodes = [node for node in graph.nodes.values() if isinstance(node, nir.LIF)]
    for layer, node in zip(layers, nodes, strict=True):
        # sinabs has time constants in steps, adds its input as it is, and sends several spikes in a step
        layer.tau_mem.data = torch.from_numpy(-1.0 / np.log(1.0 - dt / node.tau)).float()
        layer.norm_input, layer.spike_fn = True, SingleSpike
        if node.metadata["reset"] == "zero":
            layer.reset_fn = MembraneReset()
    heard = [[] for _ in layers]
    for layer, kept in zip(layers, heard, strict=True):
        layer.register_forward_hook(lambda _m, _i, y, kept=kept: kept.append(y.detach().numpy()))
    with torch.no_grad():
        for x in torch.from_numpy(np.load(observations)):
            for layer in layers:
                layer.reset_states()
            net(x.expand(int(steps), -1).contiguous())
    spikes = {f"layer_{i}": np.stack(kept).reshape(len(kept), int(steps), -1) for i, kept in enumerate(heard)}
    np.savez(out, version=nir.version, **spikes)


if __name__ == "__main__":
    main(*sys.argv[1:])

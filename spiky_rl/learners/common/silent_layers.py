"""Warning for a layer that stays silent or saturated: almost no gradient passes through it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from spiky_rl.codecs.encoders.base import Encoder
from spiky_rl.learners.common.activity import PolicyActivity
from spiky_rl.metrics.spikes import LayerActivity
from spiky_rl.networks._layer import SpikingLayer
from spiky_rl.networks.base import SpikingNetwork

log = logging.getLogger(__name__)

WARN_AFTER_ITERATIONS = 5
"""Consecutive iterations before a warning."""
SILENT_RATE, SATURATED_RATE = 0.01, 0.9
"""Firing rates below which a layer may be silent, and above which it may be saturated."""
MIN_NEURON_SHARE = 0.5
"""Minimum fraction of neurons that never spike in a silent layer, or always spike in a saturated one."""


class SilentLayerCheck:
    """Check to call after every iteration of a training; it warns once per layer."""

    def __init__(self) -> None:
        self.lasting: dict[int, tuple[str, int]] = {}
        """Index of a layer -> result of `classify_layer`, and for how many iterations it has been the same."""
        self.warned: set[int] = set()
        """Indices of the layers that were warned of."""

    def __call__(self, network: SpikingNetwork, activity: PolicyActivity) -> None:
        """Check the ``activity`` of the actor's ``network`` in the last control step of an iteration."""
        for i, layer in enumerate(activity.layers):
            fault_before, count = self.lasting.get(i, ("", 0))
            fault = classify_layer(layer) if is_expected_to_spike(network, i) else ""
            count = count + 1 if fault == fault_before else 1
            self.lasting[i] = fault, count
            if fault and count >= WARN_AFTER_ITERATIONS and i not in self.warned:
                self.warned.add(i)
                share, frequency = layer.saturated, "always"
                if fault == "silent":
                    share, frequency = layer.silent, "never"
                log.warning(
                    "layer %d of the actor is %s: for %d iterations its firing rate has been %.1f %%, and %.0f %% of its neurons %s"
                    " spike; it hardly learns%s",
                    i + 1,
                    fault,
                    count,
                    100.0 * layer.rate,
                    100.0 * share,
                    frequency,
                    suggest_remedy(network, i, fault),
                )


def classify_layer(layer: LayerActivity) -> str:
    """Return ``silent`` or ``saturated``, or an empty string if the ``layer`` is neither."""
    if layer.rate < SILENT_RATE and layer.silent > MIN_NEURON_SHARE:
        return "silent"
    return "saturated" if layer.rate > SATURATED_RATE and layer.saturated > MIN_NEURON_SHARE else ""


def is_expected_to_spike(network: SpikingNetwork, layer: int) -> bool:
    """Return whether it would be a fault if layer number ``layer`` were silent or saturated.

    It would not if events carry values, or if the encoder sends no events while its input is constant.
    """
    encoder: Encoder | None = getattr(network, "encoder", None)
    if network.stateful and encoder is not None and encoder.only_changes:
        return False
    layers = get_layers(network)
    return not layers or not layers[layer].neuron.graded


def get_layers(network: SpikingNetwork) -> Sequence[SpikingLayer]:
    """Return the layers of a ``network``; a reservoir has none."""
    return getattr(network, "layers", ())


def suggest_remedy(network: SpikingNetwork, layer: int, fault: str) -> str:
    """Return suggested changes of agent keys for layer number ``layer``, whose ``fault`` is silent or saturated; empty if there are none."""
    # a silent layer needs more current and lower thresholds, a saturated one the opposite
    change_drive, change_threshold = ("lower", "raise") if fault == "saturated" else ("raise", "lower")
    # keys whose increase raises the neurons' current
    drive = [key for key in ("bias", "input_scaling") if key in type(network).Options.model_fields]
    others = []
    if layers := get_layers(network):
        neuron, fields = layers[layer].neuron, type(layers[layer].connection).Options.model_fields
        drive += [f"connection.{key}" for key in ("gain", "offset") if key in fields]
        if "gain" in neuron.params:
            drive.append("neuron.gain")
        if "threshold" in neuron.params:
            others.append(f"{change_threshold} agent.network.neuron.threshold")
        if fault == "silent" and neuron.chosen.get("input_gain") == "ode":
            others.append("set agent.network.neuron.input_gain=unit with a tau of a few inner steps")
    keys = " or ".join(f"agent.network.{key}" for key in drive)
    suggestions = [f"{change_drive} {keys}", *others] if drive else others
    return f"; {', or '.join(suggestions)}" if suggestions else ""

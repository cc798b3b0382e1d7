"""The control of a spiking agent: an ANN with the same widths and learning rates, so that only the spikes differ."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from spiky_rl.config.plain_data import PlainMapping, get_section

RATES = ("schedule", "learning_rate", "critic_learning_rate")
"""Algorithm keys in which a control agrees with its agent, unless both agents were tuned."""


def find_uncontrolled(specs: Mapping[str, PlainMapping], tuned: Collection[str] = ()) -> dict[str, str]:
    """Return the spiking agents without a control among the others, with the widths that a control would have.

    Any ANN controls a network without layers of its own, such as a reservoir.

    Args:
        specs: Merged specifications of the agents on one task, by label.
        tuned: Labels of agents with tuned values; their rates may differ.
    """
    anns = {label: spec for label, spec in specs.items() if not spec.get("network")}

    def controls(ann: str, label: str) -> bool:
        layers = get_section(specs[label], "network").get("layers")
        widths_agree = layers is None or get_section(anns[ann], "actor").get("hidden_dims") == layers
        first, second = (get_section(specs[name], "algorithm") for name in (ann, label))
        rates_agree = {ann, label} <= {*tuned} or all(first.get(key) == second.get(key) for key in RATES)
        return widths_agree and rates_agree and "rnn_type" not in get_section(anns[ann], "actor")

    def name_widths(label: str) -> str:
        layers = get_section(specs[label], "network").get("layers")
        return "-".join(map(str, layers)) if isinstance(layers, Sequence) else "any"

    spiking = [label for label in specs if label not in anns]
    return {label: name_widths(label) for label in spiking if not any(controls(ann, label) for ann in anns)}

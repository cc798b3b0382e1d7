"""Names of the conditions of Isaac Lab's tasks, for help without torch; the package `conditions` has their classes."""

ROBUSTNESS_NAMES = (
    "nominal",
    "observation_noise",
    "sensor_dropout",
    "sensor_loss",
    "push",
    "mass",
    "friction",
)
"""Names of the set ``all``."""
CONDITION_NAMES = (
    *ROBUSTNESS_NAMES,
    *("action_delay_1", "action_delay_2", "action_delay_4", "action_delay_8"),
    *("observation_delay_1", "observation_delay_2", "observation_delay_4", "observation_delay_8"),
    "observation_held",
    *("locked_leg", "half_torque", "friction_change", "payload"),
    *("weights_8_bits", "weights_4_bits", "dead_neurons", "lost_spikes", "spurious_spikes"),
)
"""Names of all conditions."""

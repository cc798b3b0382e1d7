"""Checks across options of an agent: each value is valid alone, but not in combination with another."""

from __future__ import annotations

from collections.abc import Sequence

from spiky_rl.config.options import RegistryError, get_options
from spiky_rl.config.plain_data import PlainMapping, PlainValue, get_section
from spiky_rl.config.schema import ALGORITHM_KEYS, Algorithm, get_algorithm

REQUIRED_KEYS = {
    "rnd_cfg": ("num_outputs", "predictor_hidden_dims", "target_hidden_dims", "weight"),
    "symmetry_cfg": ("data_augmentation_func",),
}
"""Section of the algorithm -> its required keys."""
SCHEDULES = {
    "constant": (),
    "step": ("final_step", "final_value"),
    "linear": ("initial_step", "final_step", "final_value"),
}
"""Mode of RND's weight schedule -> its required keys."""


def check_combination(runner: PlainMapping) -> None:
    """Raise RegistryError naming the key if values of the merged specification ``runner`` contradict each other."""
    actor, algorithm = get_section(runner, "actor"), get_section(runner, "algorithm")
    check_algorithm(algorithm)
    distribution = get_section(actor, "distribution_cfg")
    if "distribution_cfg" in actor and not distribution.get("class_name"):
        raise RegistryError(
            "agent.actor.distribution_cfg.class_name: missing; give a class, such as GaussianDistribution"
        )
    limits, first = _list_numbers(distribution.get("std_range")), _list_numbers(distribution.get("init_std"))
    if limits and first and not limits[0] <= first[0] <= limits[1]:
        raise RegistryError(
            f"agent.actor.distribution_cfg.init_std: {first[0]} is out of std_range: {limits}"
        )
    for group, keys in REQUIRED_KEYS.items():
        if algorithm.get(group) is not None:
            _require_keys(f"agent.algorithm.{group}", get_section(algorithm, group), keys)
    noise = get_section(algorithm, "rnd_cfg")
    if noise.get("weight_schedule") is not None:
        _check_weight_schedule(get_section(noise, "weight_schedule"))


def _check_weight_schedule(schedule: PlainMapping) -> None:
    """Raise RegistryError naming the key if RND's ``schedule`` lacks a key of its mode, or ends before it begins."""
    path, mode = "agent.algorithm.rnd_cfg.weight_schedule", str(schedule.get("mode"))
    _require_keys(path, schedule, ("mode", *SCHEDULES.get(mode, ())))
    steps = _list_numbers([schedule.get("initial_step"), schedule.get("final_step")])
    if mode == "linear" and steps[0] >= steps[1]:
        raise RegistryError(f"{path}.final_step: {steps[1]}; it must be above initial_step: {steps[0]}")


def check_algorithm(algorithm: PlainMapping) -> None:
    """Raise RegistryError naming the key if the section ``algorithm`` has a key of another algorithm, or learning cannot start."""
    name = get_algorithm(algorithm)
    for key, value in algorithm.items():
        if key in get_options(Algorithm) and key not in ALGORITHM_KEYS[name]:
            able = [other.upper() for other, keys in ALGORITHM_KEYS.items() if key in keys]
            raise RegistryError(
                f"agent.algorithm.{key}: {value} given with class_name: {name.upper()}; allowed with: {', '.join(able)}"
            )
    if name != "ppo":
        _check_replay_size(algorithm)


def _check_replay_size(algorithm: PlainMapping) -> None:
    """Raise RegistryError naming the key if the replay buffer never holds the transitions that learning needs."""
    size = algorithm.get("replay_size", Algorithm.default("replay_size"))
    for key in ("learning_starts", "batch_size"):
        needed = algorithm.get(key, Algorithm.default(key))
        if isinstance(size, int) and isinstance(needed, int) and needed > size:
            raise RegistryError(
                f"agent.algorithm.{key}: {needed} given; it must be at most replay_size: {size}"
            )


def _list_numbers(value: PlainValue) -> list[float]:
    """Return the numbers in a list, or a number as a list; other values are left out."""
    elements = value if isinstance(value, Sequence) else [value]
    return [number for number in elements if isinstance(number, int | float)]


def _require_keys(path: str, settings: PlainMapping, keys: tuple[str, ...]) -> None:
    for key in keys:
        if settings.get(key) in (None, ""):
            raise RegistryError(f"{path}.{key}: missing; it has no default")

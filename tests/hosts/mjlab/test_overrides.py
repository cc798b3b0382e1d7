"""Overrides of dataclass configurations, on a configuration with mjlab's kinds of fields; mjlab itself is not needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from spiky_rl.config.errors import UserError
from spiky_rl.hosts.mjlab.overrides import apply_overrides


@dataclass
class Solver:
    timestep: float = 0.01
    integrator: Literal["euler", "implicitfast"] = "euler"
    gravity: tuple[float, float, float] = (0.0, 0.0, -9.81)
    tolerance: float | None = None


@dataclass
class Simulation:
    mujoco: Solver = field(default_factory=Solver)


@dataclass
class Term:
    weight: float = 1.0
    params: dict[str, object] = field(default_factory=lambda: {"std": 0.5, "names": ("a", "b")})


@dataclass
class Configuration:
    sim: Simulation = field(default_factory=Simulation)
    rewards: dict[str, Term] = field(default_factory=lambda: {"upright": Term(), "effort": Term()})
    decimation: int = 5
    episode_length_s: float = 50.0
    auto_reset: bool = True


def test_values_reach_their_fields_with_the_declared_types():
    cfg = Configuration()
    apply_overrides(
        cfg,  # type: ignore[arg-type]
        [
            "env.sim.mujoco.timestep=0.02",
            "env.sim.mujoco.integrator=implicitfast",
            "env.sim.mujoco.gravity=[0, 0, -1]",
            "env.sim.mujoco.tolerance=1.0e-3",
            "env.rewards.upright.weight=2",
            "env.rewards.upright.params.std=0.25",
            "env.rewards.effort=null",
        ],
    )
    solver = cfg.sim.mujoco
    assert (solver.timestep, solver.integrator, solver.tolerance) == (0.02, "implicitfast", 1e-3)
    assert solver.gravity == (0.0, 0.0, -1.0) and isinstance(solver.gravity, tuple)
    assert cfg.rewards["upright"].weight == 2.0 and isinstance(cfg.rewards["upright"].weight, float)
    assert cfg.rewards["upright"].params["std"] == 0.25 and cfg.rewards["effort"] is None


def test_a_key_may_have_dots_or_be_a_number():
    cfg = Configuration()
    scale: Any = {".*_hip": 0.3, ".*_hip.*": 0.5, "knee.1": Term(), 0: (0.0, 0.0)}
    cfg.rewards["upright"].params["scale"] = scale
    path = "env.rewards.upright.params.scale"
    apply_overrides(cfg, [f"{path}..*_hip=0.4", f"{path}..*_hip.*=1", f"{path}.knee.1.weight=2", f"{path}.0=[-1, 1]"])  # type: ignore[arg-type]
    assert (scale[".*_hip"], scale[".*_hip.*"], scale["knee.1"].weight, scale[0]) == (0.4, 1.0, 2.0, (-1, 1))
    for bad in (f"{path}..*_hop=1", f"{path}.1=1", f"{path}=1", "env.decimation.=1"):
        with pytest.raises(UserError, match=r"has no field|is a group"):
            apply_overrides(cfg, [bad])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("override", "key", "said"),
    [
        ("env.sim.mujocu.timestep=0.1", "env.sim.mujocu", "'mujoco'"),
        ("env.rewards.uprigth.weight=1", "env.rewards.uprigth", "'upright'"),
        ("env.rewards.upright.params.stdd=1", "env.rewards.upright.params.stdd", "'std'"),
        ("env.decimation.x=1", "env.decimation.x", "none"),
        ("env.sim.mujoco=1", "env.sim.mujoco", "timestep"),
        ("env.sim.mujoco=null", "env.sim.mujoco", "timestep"),
        ("env.decimation=two", "env.decimation", "'two' given; allowed: a value such as "),
        ("env.decimation=true", "env.decimation", "True"),
        ("env.decimation=0", "env.decimation", "0"),
        ("env.episode_length_s=.nan", "env.episode_length_s", "finite"),
        ("env.episode_length_s=-1", "env.episode_length_s", "-1"),
        ("env.sim.mujoco.integrator=rk4", "env.sim.mujoco.integrator", "'implicitfast'"),
        ("env.sim.mujoco.gravity=[0, 0]", "env.sim.mujoco.gravity", "[0, 0]"),
        ("env.auto_reset=false", "env.auto_reset", "true"),
        ("physics=mujoco", "physics=mujoco", "env.key=value"),
    ],
)
def test_bad_overrides_name_their_key_and_what_is_allowed(override, key, said):
    with pytest.raises(UserError) as caught:
        apply_overrides(Configuration(), [override])  # type: ignore[arg-type]
    assert key in str(caught.value) and said in str(caught.value)

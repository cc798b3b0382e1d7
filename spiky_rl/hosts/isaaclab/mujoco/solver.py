"""Newton's MuJoCo solver with the worlds stepped by MuJoCo's C library; all else is Newton's and Isaac Lab's."""

from __future__ import annotations

import importlib
from typing import Any

import warp as wp
from isaaclab_newton.physics.mjwarp_manager import NewtonMJWarpManager
from isaaclab_newton.physics.newton_manager import NewtonManager
from newton.solvers import SolverMuJoCo

from spiky_rl.hosts.isaaclab.mujoco.conversions import Conversions
from spiky_rl.hosts.isaaclab.mujoco.parameters import UnsupportedModel, synchronise
from spiky_rl.hosts.isaaclab.mujoco.worlds import Worlds

mujoco: Any = importlib.import_module("mujoco")


class NativeSolver(SolverMuJoCo):
    """Newton's solver; its models and contacts are MuJoCo-Warp's, its steps MuJoCo's, conversions included."""

    def __init__(self, model: Any, **options: Any) -> None:
        self.worlds: Worlds | None = None
        self.is_stale = True
        super().__init__(model, **options)
        if reason := unsupported(self):
            raise UnsupportedModel(f"physics=mujoco: {reason}; use physics=newton_mjwarp")
        self.conversions = Conversions(self)

    def _notify_model_changed(self, flags: Any) -> None:
        super()._notify_model_changed(flags)
        self.is_stale = True

    def step(self, state_in: Any, state_out: Any, control: Any, contacts: Any, dt: float) -> None:
        """One step of all worlds, as `SolverMuJoCo.step` makes it with MuJoCo-Warp."""
        self.step_often(1, state_in, state_out, control, contacts, dt)

    def step_often(
        self, count: int, state_in: Any, state_out: Any, control: Any, contacts: Any, dt: float
    ) -> None:
        """``count`` steps of all worlds with the same forces; more than one from a state to the same, without given contacts."""
        self._validate_rne_postconstraint(state_out)
        worlds = self.ready(dt)
        newton = self.conversions.bind(state_in, state_out, control)
        newton.applies = not self.conversions.has_ball_targets
        newton.step, newton.interval = self._step, self.update_data_interval
        with wp.ScopedDevice(self.model.device):
            self._enable_rne_postconstraint(state_out)
            if not newton.applies:
                self._apply_mjc_control(self.model, state_in, control, self.mjw_data)
            given = not self.mjw_model.opt.run_collision_detection
            if given:
                self._convert_contacts_to_mjwarp(self.model, state_in, contacts)
            worlds.ask(
                wrenches=bool(self.mjw_model.sensor_rne_postconstraint),
                report=bool(NewtonManager._report_contacts),  # pylint: disable=protected-access
                given=given,
            )
            worlds.step(newton, count)
        self._step += count

    def ready(self, dt: float) -> Worlds:
        """The worlds with Newton's values and a time step of ``dt`` seconds."""
        if self.worlds is None:
            self.worlds = Worlds(self.mj_model, self.mjw_data)
        if self.is_stale:
            synchronise(self.worlds, self.mjw_model, self.mj_model)
            self.is_stale = False
        self.mjw_model.opt.timestep.fill_(dt)
        for model in self.worlds.models:
            model.opt.timestep = dt
        return self.worlds


def unsupported(solver: Any) -> str | None:
    """What of a model or its options MuJoCo's C library does not step as MuJoCo-Warp does; None: nothing."""
    given = not solver.mjw_model.opt.run_collision_detection
    reasons = {
        "worlds on a GPU": not solver.model.device.is_cpu,
        "sleeping bodies": bool(solver.enable_sleeping),
        "MuJoCo's own single world (use_mujoco_cpu)": bool(solver.use_mujoco_cpu),
        "Newton's contacts with the RK4 integrator": given
        and solver.mj_model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4,
        "deformable bodies": bool(solver.mj_model.nflex),
    }
    return next((name for name, holds in reasons.items() if holds), None)


class NewtonMuJoCoManager(NewtonMJWarpManager):
    """Isaac Lab's manager of MuJoCo-Warp with the native solver. Isaac Lab tells Newton's managers by the first word of the name."""

    @classmethod
    def _create_solver(cls, model: Any, solver_cfg: Any) -> NativeSolver:
        options = cls._filter_solver_kwargs(SolverMuJoCo, solver_cfg)
        options.pop("ls_parallel", None)  # deprecated; Newton warns of it
        return NativeSolver(model, **options)

    @classmethod
    def _run_solver_substeps(cls, contacts: Any) -> None:
        """All substeps in one call, where nothing comes between them; else one after the other."""
        backend: Any = cls.backend
        solver: Any = cls._solver
        if cls._needs_collision_pipeline or cls._state_force_callbacks:
            super()._run_solver_substeps(contacts)
            return
        state = backend.state_0
        cls._apply_staged_body_forces(state)
        solver.step_often(cls._num_substeps, state, state, backend.control, contacts, cls._solver_dt)
        state.clear_forces()

    @classmethod
    def _eval_fk_impl(cls, world_reset_mask: Any, fk_mask: Any) -> None:
        """Newton's forward kinematics, on all threads."""
        backend: Any = cls.backend
        solver: Any = cls._solver
        solver.conversions.kinematics(backend.state_0, backend.control, fk_mask)

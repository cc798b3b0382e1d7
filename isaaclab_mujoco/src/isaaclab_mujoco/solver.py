"""Newton's MuJoCo solver, and Isaac Lab's manager of it, with steps by MuJoCo's C library."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, override

import warp as wp
from isaaclab_newton.physics.mjwarp_manager import NewtonMJWarpManager
from isaaclab_newton.physics.newton_manager import NewtonManager
from newton.solvers import SolverMuJoCo

from isaaclab_mujoco.conversions import Conversions
from isaaclab_mujoco.errors import UnsupportedModel
from isaaclab_mujoco.parameters import update_models
from isaaclab_mujoco.selection import log_warp_fallback
from isaaclab_mujoco.worlds import Worlds

if TYPE_CHECKING:
    from isaaclab_newton.physics import MJWarpSolverCfg
    from newton import Contacts, Control, Model, ModelFlags, State

mujoco: Any = importlib.import_module("mujoco")


class NativeSolver(SolverMuJoCo):
    """Newton's solver with MuJoCo-Warp's model and contacts; MuJoCo makes the steps and their conversions."""

    def __init__(self, model: Model, *, allows_fallback: bool = False, **options: Any) -> None:
        """Build the solver with the ``options`` of `SolverMuJoCo`.

        Args:
            allows_fallback: Whether MuJoCo-Warp makes all steps of a model that MuJoCo does not support. Without it, or if the model
                becomes unsupported after the first step, the solver raises UnsupportedModel.
        """
        self.worlds: Worlds | None = None
        self.is_stale = True
        """Whether MuJoCo's models lack changes of Newton's parameters."""
        self.is_native = True
        """Whether MuJoCo makes the steps, not MuJoCo-Warp."""
        self.allows_fallback = allows_fallback
        super().__init__(model, **options)
        if reason := find_unsupported_feature(self):
            self.fall_back_to_warp(UnsupportedModel(reason))
        else:
            self.conversions = Conversions(self)

    def fall_back_to_warp(self, error: UnsupportedModel) -> None:
        """Fall back to MuJoCo-Warp and log the reason. Raises ``error`` if fallback is disabled or stepping has started."""
        if not self.allows_fallback or self._step:
            raise error
        self.is_native = False
        log_warp_fallback(error.reason)

    @override
    def _notify_model_changed(self, flags: ModelFlags | int) -> None:
        super()._notify_model_changed(flags)
        self.is_stale = True

    def update_models(self) -> bool:
        """Copy Newton's parameters to MuJoCo's models if they have changed, and return whether MuJoCo makes the next step."""
        if self.is_native and self.is_stale:
            if self.worlds is None:
                self.worlds = Worlds(self.mj_model, self.mjw_data)
            try:
                update_models(self.worlds, self.mjw_model, self.mj_model)
            except UnsupportedModel as error:
                self.fall_back_to_warp(error)
            self.is_stale = False
        return self.is_native

    @override
    def step(
        self, state_in: State, state_out: State, control: Control, contacts: Contacts, dt: float
    ) -> None:
        if self.update_models():
            self.run_substeps(1, state_in, state_out, control, contacts, dt)
        else:
            super().step(state_in, state_out, control, contacts, dt)

    def run_substeps(
        self,
        substeps: int,
        state_in: State,
        state_out: State,
        control: Control,
        contacts: Contacts,
        dt: float,
    ) -> None:
        """Step all worlds with MuJoCo, with the same forces in every substep.

        Args:
            substeps: Number of steps. Several steps need the same object as both states, and no given contacts.
            state_in: State before the steps.
            state_out: State after the steps.
            control: Targets and forces of the joints.
            contacts: Newton's contacts, used if MuJoCo finds none itself.
            dt: Time step in seconds.
        """
        worlds = self.prepare_worlds(dt)
        if self.conversions.has_ball_targets and substeps > 1:
            # the controls depend on the joints, and only Newton converts them, once in a call
            for _ in range(substeps):
                self.run_substeps(1, state_in, state_out, control, contacts, dt)
            return
        self._validate_rne_postconstraint(state_out)
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
            worlds.configure_step(
                wrenches=bool(self.mjw_model.sensor_rne_postconstraint),
                report=bool(NewtonManager._report_contacts),  # pylint: disable=protected-access
                given_contacts=given,
            )
            worlds.step(newton, substeps)
        self._step += substeps

    def prepare_worlds(self, dt: float) -> Worlds:
        """Return the worlds with Newton's parameters and a time step of ``dt`` seconds."""
        self.update_models()
        assert self.worlds is not None
        self.mjw_model.opt.timestep.fill_(dt)
        for model in self.worlds.models:
            model.opt.timestep = dt
        return self.worlds


def find_unsupported_feature(solver: SolverMuJoCo) -> str | None:
    """Return the first feature of a solver's model that MuJoCo's C library does not step as MuJoCo-Warp does; None if there is none."""
    given = not solver.mjw_model.opt.run_collision_detection
    model, shapes = solver.mj_model, mujoco.mjtGeom
    is_rk4 = model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
    reasons = {
        "worlds on a GPU": not solver.model.device.is_cpu,
        "sleeping bodies": bool(solver.enable_sleeping),
        "MuJoCo's own single world (use_mujoco_cpu)": bool(solver.use_mujoco_cpu),
        "Newton's contacts with the RK4 integrator": given and is_rk4,
        "meshes on planes with the RK4 integrator": is_rk4
        and bool(model.nmesh)
        and shapes.mjGEOM_PLANE in model.geom_type,
        "height fields with MuJoCo's contacts": not given and shapes.mjGEOM_HFIELD in model.geom_type,
        "deformable bodies": bool(model.nflex),
    }
    return next((name for name, holds in reasons.items() if holds), None)


class NewtonMuJoCoManager(NewtonMJWarpManager):
    """Isaac Lab's manager of MuJoCo-Warp with the native solver.

    Isaac Lab recognises Newton's managers by the first word of the class name.
    """

    allows_fallback = False

    @classmethod
    @override
    def _create_solver(cls, model: Model, solver_cfg: MJWarpSolverCfg) -> NativeSolver:
        options = cls._filter_solver_kwargs(SolverMuJoCo, solver_cfg)
        options.pop("ls_parallel", None)  # deprecated; Newton warns of it
        return NativeSolver(model, allows_fallback=cls.allows_fallback, **options)

    @classmethod
    def uses_native_solver(cls) -> bool:
        """Return whether MuJoCo steps the model with all its pending changes. Call it before the first step."""
        solver: Any = cls._solver
        for change in cls._model_changes:  # they stay pending; the step notifies the solver again
            solver.notify_model_changed(change)
        return solver.update_models()

    @classmethod
    @override
    def _run_solver_substeps(cls, contacts: Contacts | None) -> None:
        # MuJoCo makes all substeps in one call if nothing has to happen between them
        backend: Any = cls.backend
        solver: Any = cls._solver
        if not solver.update_models() or cls._needs_collision_pipeline or cls._state_force_callbacks:
            super()._run_solver_substeps(contacts)
            return
        state = backend.state_0
        cls._apply_staged_body_forces(state)
        solver.run_substeps(cls._num_substeps, state, state, backend.control, contacts, cls._solver_dt)
        state.clear_forces()

    @classmethod
    @override
    def _eval_fk_impl(cls, world_reset_mask: wp.array | None, fk_mask: wp.array | None) -> None:
        # computes on all threads what `newton.eval_fk` computes
        backend: Any = cls.backend
        solver: Any = cls._solver
        if solver.is_native:
            solver.conversions.update_kinematics(backend.state_0, backend.control, fk_mask)
        else:
            super()._eval_fk_impl(world_reset_mask, fk_mask)


class NewtonMuJoCoOrWarpManager(NewtonMuJoCoManager):
    """The manager of ``auto``: MuJoCo-Warp steps a model that MuJoCo does not support."""

    allows_fallback = True

"""Worlds with non-finite physics: they are terminated, reset and counted at once, and never reach a policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spiky_rl.hosts.isaaclab.workflows import Env

if TYPE_CHECKING:
    from isaaclab.envs import DirectRLEnv, ManagerBasedRLEnv

MAX_VALID_VALUE = 1e9
"""Maximum absolute position or velocity (m, rad, per second) of a valid world; its square is still a finite float32."""
WINDOW_STEPS = 100
"""Control steps that the running count of resets covers. If the count exceeds the number of worlds, over 1 % of all steps broke."""
PENALTIES = ("is_terminated", "terminated_penalty")
"""Isaac Lab's reward terms for termination alone, which also apply to a broken world."""


class BrokenWorlds:
    """Worlds that broke in the latest control step, and the count so far. Only `describe` waits for the device."""

    def __init__(self, env: Env) -> None:
        # imported late: the import reads the asset root
        from isaaclab.envs import DirectRLEnv, ManagerBasedRLEnv

        self.env = env
        self.mask = torch.zeros(env.num_envs, dtype=torch.bool, device=env.device)
        """Whether a world broke in the latest step, [B]."""
        self.count = torch.zeros((), dtype=torch.long, device=env.device)
        """Number of broken worlds since the start."""
        self.recent = torch.zeros((), device=env.device)
        """Running count of broken worlds, see `WINDOW_STEPS`."""
        self.sizes = self.sizes_before = torch.zeros(0, env.num_envs, device=env.device)
        """Maximum absolute value of every quantity in every world, [Q, B], in the latest and the previous step, before resets."""
        if isinstance(env, ManagerBasedRLEnv):
            self._follow_managers(env)
        elif isinstance(env, DirectRLEnv):
            self._follow_methods(env)
        else:
            return
        if env.sim.physics_manager.__name__.startswith("Newton"):  # so Isaac Lab recognises Newton's managers
            self._follow_resets(env)

    @property
    def is_excessive(self) -> Tensor:
        """Whether too many worlds broke in the latest step: all at once, or over 1 % of recent steps."""
        return self.mask.any() & (self.mask.all() | (self.recent > len(self.mask)))

    def get_quantities(self) -> dict[str, Tensor]:
        """Return velocities and positions of all articulations and rigid objects by name, [B, ...] each."""
        scene, velocities, positions = self.env.scene, {}, {}
        for name, robot in scene.articulations.items():
            velocities[f"joint velocity of {name}"] = robot.data.joint_vel.torch
            positions[f"joint position of {name}"] = robot.data.joint_pos.torch
        for name, body in (*scene.articulations.items(), *scene.rigid_objects.items()):
            velocities[f"velocity of {name}"] = body.data.root_com_vel_w.torch
            positions[f"pose of {name}"] = body.data.root_link_pose_w.torch
        for name, bodies in scene.rigid_object_collections.items():
            velocities[f"velocity of {name}"] = bodies.data.body_com_vel_w.torch
            positions[f"pose of {name}"] = bodies.data.body_link_pose_w.torch
        return {name: values for name, values in {**velocities, **positions}.items() if values.numel()}

    def find(self) -> None:
        """Find and count broken worlds after a physics step."""
        self.sizes_before = self.sizes
        sizes = [values.abs().flatten(1).amax(1) for values in self.get_quantities().values()]
        if sizes:
            self.sizes = torch.stack(sizes)
            self.mask = ~(self.sizes <= MAX_VALID_VALUE).all(0)  # NaN is not below anything
        number = self.mask.sum()
        self.count += number
        self.recent = self.recent * (1.0 - 1.0 / WINDOW_STEPS) + number

    def describe(self) -> str:
        """Return a phrase with a broken quantity, its value one step before, and the number of worlds. Waits for the device."""
        which, world = (int(index) for index in (~(self.sizes <= MAX_VALID_VALUE)).nonzero()[0])
        name, now = list(self.get_quantities())[which], float(self.sizes[which, world])
        before = f" after {float(self.sizes_before[which, world]):.3g}" if len(self.sizes_before) else ""
        hit = f"{int(self.mask.sum())} of {len(self.mask)} environments, the first is {world}"
        return f"{name} is {now:.3g}{before} in {hit}; {int(self.count)} such worlds were reset so far"

    def _follow_managers(self, env: ManagerBasedRLEnv) -> None:
        """Make the managers of an ``env`` terminate broken worlds, and keep only the `PENALTIES` of their rewards."""
        terminations, rewards = env.termination_manager, env.reward_manager
        compute_dones, compute_all_rewards = terminations.compute, rewards.compute
        is_penalty = torch.tensor(
            [
                getattr(rewards.get_term_cfg(name).func, "__name__", "") in PENALTIES
                for name in rewards.active_terms
            ],
            dtype=torch.bool,
            device=env.device,
        )

        def compute_terminations() -> Tensor:
            compute_dones()
            self.find()
            terminations.terminated.logical_or_(self.mask)
            terminations.time_outs.logical_and_(~self.mask)
            return terminations.dones

        def compute_rewards(dt: float) -> Tensor:
            # pylint: disable=protected-access  # its sums would be NaN in a log
            sums = rewards._episode_sum_buf.clone()
            total, broken = compute_all_rewards(dt), self.mask[:, None]
            rewards._step_reward.masked_fill_(broken & ~is_penalty, 0.0)
            rewards._episode_sum_buf.copy_(
                torch.where(broken, sums + rewards._step_reward * dt, rewards._episode_sum_buf)
            )
            total.copy_(torch.where(self.mask, rewards._step_reward.sum(1) * dt, total))
            return total

        replace(terminations, "compute", compute_terminations)
        replace(rewards, "compute", compute_rewards)

    def _follow_methods(self, env: DirectRLEnv) -> None:
        """Make an ``env`` terminate broken worlds with a reward of 0."""
        compute_dones, compute_rewards = env._get_dones, env._get_rewards  # pylint: disable=protected-access

        def get_dones() -> tuple[Tensor, Tensor]:
            terminated, time_outs = compute_dones()
            self.find()
            return terminated | self.mask, time_outs & ~self.mask

        def get_rewards() -> Tensor:
            return compute_rewards().masked_fill(self.mask, 0.0)

        replace(env, "_get_dones", get_dones)
        replace(env, "_get_rewards", get_rewards)

    def _follow_resets(self, env: ManagerBasedRLEnv | DirectRLEnv) -> None:
        """Make the resets of an ``env`` with Newton's physics also replace what Isaac Lab keeps of broken worlds until the next step."""
        reset_worlds = env._reset_idx  # pylint: disable=protected-access

        def reset_worlds_and_sensors(env_ids: Any) -> None:
            reset_worlds(env_ids)
            self._update_frame_sensors()
            self._clear_accelerations()

        replace(env, "_reset_idx", reset_worlds_and_sensors)

    def _update_frame_sensors(self) -> None:
        """Update Newton's frame sensors in broken worlds; Isaac Lab updates them in physics steps alone."""
        import warp

        manager: Any = self.env.sim.physics_manager
        for sensor in manager._newton_frame_transform_sensors:  # pylint: disable=protected-access
            manager.forward()  # the sensor reads poses of bodies, and a reset sets joints
            transforms = warp.to_torch(sensor.transforms).view(len(self.mask), -1)
            before = transforms.clone()
            sensor.update(manager.get_state_0())
            transforms.copy_(torch.where(self.mask[:, None], transforms, before))

    def _clear_accelerations(self) -> None:
        """Set the latest velocities and accelerations of bodies in broken worlds to 0; the next accelerations are differences to them."""
        import warp

        scene: Any = self.env.scene
        groups = (scene.articulations, scene.rigid_objects, scene.rigid_object_collections)
        for data in (asset.data for group in groups for asset in group.values()):
            # pylint: disable-next=protected-access
            for values in (data._previous_body_com_vel, data._body_com_acc_w.data):
                warp.to_torch(values).masked_fill_(self.mask[:, None, None], 0.0)


def replace(owner: Any, name: str, function: Callable[..., Any]) -> None:
    """Replace the method ``name`` of the single object ``owner`` by ``function``."""
    setattr(owner, name, function)

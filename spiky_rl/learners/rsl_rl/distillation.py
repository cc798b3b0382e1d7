"""Distillation of a teacher into a student with rsl_rl's `Distillation`, followed by PPO in the same training.

The student acts with noise in its own episodes. The teacher labels the visited states with its actions, and the student's action
means are trained towards them (behaviour cloning on the student's states, as in DAgger). The errors of a stateful student are
backpropagated through ``gradient_length`` control steps. Then the untrained critic learns alone for a few iterations, and PPO
continues. With the method conversion the teacher acts instead, and the student gets its weights, see `conversion`.

Sources: Ross, Gordon & Bagnell (2011), DAgger; `rsl_rl.algorithms.Distillation`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, override

from rsl_rl.algorithms import PPO, Distillation
from rsl_rl.models import MLPModel
from rsl_rl.storage import RolloutStorage
from tensordict import TensorDict
from torch import Tensor

from spiky_rl.config.registry import RegistryError
from spiky_rl.config.schema import DistillationSettings
from spiky_rl.learners.common.optimizers import fuse_optimizer
from spiky_rl.learners.rsl_rl.conversion import Converter
from spiky_rl.learners.rsl_rl.model import SpikingModel, get_state
from spiky_rl.learners.rsl_rl.ppo import RslRlSpikingPPO

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from spiky_rl.learners.common.teacher import Teacher

EXTRA_KEYS = ("iterations", "value_iterations", "method", "threshold_share")
"""Our own options; all others belong to rsl_rl's `Distillation`."""


class DistillingPPO(RslRlSpikingPPO):
    """`SpikingPPO` that begins with `Distillation` if it has a teacher.

    Without a teacher, as in playback, it is `SpikingPPO`; ``train.py`` requires ``--teacher``.
    """

    def __init__(self, *args: Any, distillation_cfg: Mapping[str, Any], **kwargs: Any) -> None:
        """Initialise with the arguments of `SpikingPPO`, and ``distillation_cfg`` with the keys of `DistillationSettings`."""
        super().__init__(*args, **kwargs)
        chosen = DistillationSettings.check("algorithm.distillation_cfg", distillation_cfg).model_dump()
        self.iterations, self.value_iterations, self.method, self.threshold_share = (
            chosen.pop(key) for key in EXTRA_KEYS
        )
        self.settings = {**chosen, "multi_gpu_cfg": kwargs.get("multi_gpu_cfg")}
        if self.method == "imitation" and chosen["gradient_length"] == 1 and self.actor.is_recurrent:
            log.warning(
                "the student carries a state, but no gradient passes from one control step to the next; set"
                " agent.algorithm.distillation_cfg.gradient_length above 1"
            )
        self.updates = 0
        """Iterations so far."""
        self.teacher: Teacher | None = None
        self.distillation: Distillation | None = None
        self.converter: Converter | None = None
        """Converter of the teacher's weights; None with the method imitation, or without a teacher."""
        self._ppo_storage = self.storage
        """Storage of PPO's rollouts; ``storage`` is that of the current iteration, which may be one of distillation."""

    def set_teacher(self, teacher: Teacher, model: MLPModel, obs: TensorDict, actions: int) -> None:
        """Set the teacher and its ``model`` from `build_teacher`, for observations ``obs`` [B, ...] and the number of ``actions``.

        The teacher's action noise is copied to the student if both have the same kind of distribution. Raises RegistryError if
        the student cannot take over the teacher's weights or noise.
        """
        steps = self._ppo_storage.num_transitions_per_env
        storage = RolloutStorage("distillation", len(obs), steps, obs, [actions], self.device)
        student = self.get_policy()
        self.distillation = Distillation(student, model, storage, device=self.device, **self.settings)
        fuse_optimizer(self.distillation.optimizer)
        self.distillation.teacher_loaded, self.teacher = True, teacher
        if self.method == "conversion":
            if not isinstance(student, SpikingModel):
                raise RegistryError("agent.network: none given; allowed for a conversion: feedforward")
            self.converter = Converter(student, model, self.threshold_share)
        ours, theirs = student.distribution, model.distribution
        if self.updates == 0 and ours is not None and theirs is not None and type(ours) is type(theirs):
            noise = theirs.state_dict()
            if noise.keys() != ours.state_dict().keys():
                raise RegistryError(
                    f"agent.actor.distribution_cfg.std_type: {ours.std_type} given; allowed: {theirs.std_type}, as the teacher"
                )
            ours.load_state_dict(noise)

    @property
    def is_distilling(self) -> bool:
        """Whether the current iteration is one of distillation."""
        return self.distillation is not None and self.updates < self.iterations

    @override
    def act(self, obs: TensorDict) -> Tensor:
        if self.distillation and self.is_distilling:
            self.storage = self.distillation.storage  # the runner reads the current rollout from it
            actions = self.distillation.act(obs)
            if self.converter is None:
                return actions
            teacher_actions = self.distillation.transition.privileged_actions
            assert teacher_actions is not None
            # a conversion needs the teacher's activations on the observations that its own actions lead to
            return teacher_actions
        self.storage = self._ppo_storage
        return super().act(obs)

    @override
    def process_env_step(
        self, obs: TensorDict, rewards: Tensor, dones: Tensor, extras: dict[str, Tensor]
    ) -> None:
        if self.distillation and self.is_distilling:
            self.distillation.process_env_step(obs, rewards, dones, extras)
            self.critic.reset(dones)
        else:
            super().process_env_step(obs, rewards, dones, extras)

    @override
    def compute_returns(self, obs: TensorDict) -> None:
        if not self.is_distilling:
            super().compute_returns(obs)

    @override
    def train_mode(self) -> None:
        super().train_mode()
        if self.distillation:
            self.distillation.train_mode()

    @override
    def update(self) -> dict[str, float]:
        """Update by distillation or conversion, the critic alone, or PPO, depending on the iteration."""
        if self.converter and self.distillation and self.is_distilling:
            losses = self._convert(self.converter, self.distillation.storage)
        elif self.distillation and self.is_distilling:
            losses = self._distil(self.distillation)
        elif self.distillation and self.updates < self.iterations + self.value_iterations:
            losses = self._update_critic()
        else:
            losses = super().update()
        self.updates += 1
        return losses

    def _distil(self, distillation: Distillation) -> dict[str, float]:
        """Train the student to act as the teacher; return the losses."""
        observations = distillation.storage.observations.flatten(0, 1)
        # rsl_rl resets the teacher to the state at the start of this rollout, and does not run it again
        teacher = distillation.teacher
        state = get_state(teacher)
        losses = distillation.update()
        teacher.reset(hidden_state=state)  # type: ignore[arg-type]  # our models take any number of states
        self.critic.update_normalization(observations)
        return losses

    def _update_critic(self) -> dict[str, float]:
        """Update by PPO with a frozen actor; return the losses."""
        learned = [p for p in self.get_policy().parameters() if p.requires_grad]
        # the KL divergence of a frozen actor is 0, and an adaptive schedule would raise the learning rate without end
        schedule, self.schedule = self.schedule, "fixed"
        for parameter in learned:
            parameter.requires_grad_(False)
        try:
            return PPO.update(self)  # without local rules, which would change the actor
        finally:
            self.schedule = schedule
            for parameter in learned:
                parameter.requires_grad_(True)

    def _convert(self, converter: Converter, rollout: RolloutStorage) -> dict[str, float]:
        """Convert the teacher with the activations of ``rollout`` and of earlier ones; return the student's error on it."""
        observations = rollout.observations.flatten(0, 1)
        converter.record(observations)
        converter.convert()
        error = converter.compare(rollout.observations, rollout.dones, rollout.privileged_actions)
        self.critic.update_normalization(observations)
        rollout.clear()
        return {"behavior": error}

    @override
    def save(self) -> dict:
        # includes the teacher, so that resuming does not need the teacher's run
        saved = super().save()
        if self.distillation and self.teacher:
            saved["distillation"] = {
                "updates": self.updates,
                "optimizer_state_dict": self.distillation.optimizer.state_dict(),
                "teacher_state_dict": dict(self.teacher.weights),
                "teacher": self.teacher.identity,
            }
            if self.converter:
                saved["distillation"]["activations"] = [self.converter.count, *self.converter.sums]
        return saved

    @override
    def load(self, loaded_dict: dict, load_cfg: dict | None, strict: bool) -> bool:
        # training resumes in the same part
        loads_iteration = super().load(loaded_dict, load_cfg, strict)
        saved = loaded_dict.get("distillation")
        if loads_iteration and saved:
            self.updates = saved["updates"]
            if self.distillation and (load_cfg is None or load_cfg.get("optimizer")):
                self.distillation.optimizer.load_state_dict(saved["optimizer_state_dict"])
            if self.converter and "activations" in saved:
                self.converter.count, *sums = saved["activations"]
                for own, loaded in zip(self.converter.sums, sums, strict=True):
                    own.copy_(loaded)
        return loads_iteration

"""From a teacher to spikes: rsl_rl's distillation first, then PPO, in one training of one student.

The student acts, with its noise, in episodes of its own; its teacher says what it would have done there, and the student's action means
are drawn to that (behaviour cloning on the student's states, as DAgger). A stateful student's errors go back through
``gradient_length`` control steps. Then the critic, which has seen nothing yet, learns alone for a few iterations, and PPO goes on from there.

Sources: Ross, Gordon & Bagnell (2011), DAgger; `rsl_rl.algorithms.Distillation`, which does the first part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, override

from rsl_rl.algorithms import Distillation
from rsl_rl.models import MLPModel
from rsl_rl.storage import RolloutStorage
from tensordict import TensorDict
from torch import Tensor

from spiky_rl.config.schema import DistillationSettings
from spiky_rl.learners.rsl_rl.model import SpikingModel
from spiky_rl.learners.rsl_rl.ppo import RslRlSpikingPPO

if TYPE_CHECKING:
    from spiky_rl.learners.common.teacher import Teacher

EXTRA_KEYS = ("iterations", "value_iterations")
"""Options that are ours; the others are rsl_rl's `Distillation`'s."""


class DistillingPPO(RslRlSpikingPPO):
    """`SpikingPPO` that begins with `Distillation` once it is given a teacher; without one, as for playing, it is `SpikingPPO`.

    Training without one is refused where it is asked for: ``train.py`` wants ``--teacher``.
    """

    def __init__(self, *args: Any, distillation_cfg: Mapping[str, Any], **kwargs: Any) -> None:
        """Arguments as `SpikingPPO`'s, and ``distillation_cfg``, whose keys `spiky_rl.config.schema` has."""
        super().__init__(*args, **kwargs)
        chosen = DistillationSettings.check("algorithm.distillation_cfg", distillation_cfg).model_dump()
        self.iterations, self.value_iterations = (chosen.pop(key) for key in EXTRA_KEYS)
        self.settings = {**chosen, "multi_gpu_cfg": kwargs.get("multi_gpu_cfg")}
        self.updates = 0
        """Iterations so far."""
        self.teacher: Teacher | None = None
        self.distillation: Distillation | None = None
        self._rollouts = self.storage

    def set_teacher(self, teacher: Teacher, model: MLPModel, obs: TensorDict, actions: int) -> None:
        """Learn from a teacher; the student's noise becomes its teacher's, where both have it in the same form.

        Args:
            teacher: The teacher.
            model: Its model, as `build_teacher` returns it.
            obs: What an environment observes, [B, ...].
            actions: A.
        """
        steps = self._rollouts.num_transitions_per_env
        storage = RolloutStorage("distillation", len(obs), steps, obs, [actions], self.device)
        student = self.get_policy()
        self.distillation = Distillation(student, model, storage, device=self.device, **self.settings)
        self.distillation.teacher_loaded, self.teacher = True, teacher
        ours, theirs = student.distribution, model.distribution
        if self.updates == 0 and ours is not None and theirs is not None and type(ours) is type(theirs):
            ours.load_state_dict(theirs.state_dict())

    @property
    def is_distilling(self) -> bool:
        """Whether this iteration is one of distillation."""
        return self.distillation is not None and self.updates < self.iterations

    @override
    def act(self, obs: TensorDict) -> Tensor:
        if self.distillation and self.is_distilling:
            self.storage = self.distillation.storage  # the rollout at hand is what others look at
            return self.distillation.act(obs)
        self.storage = self._rollouts
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
        """An iteration of distillation, of the critic alone, or of PPO."""
        if self.distillation and self.is_distilling:
            seen = self.distillation.storage.observations.flatten(0, 1)
            # rsl_rl puts the teacher back to where this rollout began, and does not run it again
            teacher = self.distillation.teacher
            state = teacher.state if isinstance(teacher, SpikingModel) else teacher.get_hidden_state()
            losses = self.distillation.update()
            teacher.reset(hidden_state=state)  # type: ignore[arg-type]  # ours takes states of any length
            self.critic.update_normalization(seen)
        elif self.distillation and self.updates < self.iterations + self.value_iterations:
            learned = [p for p in self.get_policy().parameters() if p.requires_grad]
            # of an actor that stays, the divergence is 0, and an adaptive schedule would raise the rate without end
            schedule, self.schedule = self.schedule, "fixed"
            for parameter in learned:
                parameter.requires_grad_(False)
            try:
                losses = super().update()
            finally:
                self.schedule = schedule
                for parameter in learned:
                    parameter.requires_grad_(True)
        else:
            losses = super().update()
        self.updates += 1
        return losses

    @override
    def save(self) -> dict:
        # the teacher too, so that a run goes on without its teacher's
        saved = super().save()
        if self.distillation and self.teacher:
            saved["distillation"] = {
                "updates": self.updates,
                "optimizer_state_dict": self.distillation.optimizer.state_dict(),
                "teacher_state_dict": dict(self.teacher.weights),
                "teacher": self.teacher.identity,
            }
        return saved

    @override
    def load(self, loaded_dict: dict, load_cfg: dict | None, strict: bool) -> bool:
        # training goes on in the part that it was in
        goes_on = super().load(loaded_dict, load_cfg, strict)
        held = loaded_dict.get("distillation")
        if goes_on and held:
            self.updates = held["updates"]
            if self.distillation and (load_cfg is None or load_cfg.get("optimizer")):
                self.distillation.optimizer.load_state_dict(held["optimizer_state_dict"])
        return goes_on

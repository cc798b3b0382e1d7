"""A policy measured under conditions: one whole episode from every environment of one simulation."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict
from torch import Tensor

from spiky_rl.hosts.isaaclab.conditions import (
    CONDITIONS,
    EnvGroup,
    EvalCondition,
    map_values_to_sensors,
    newton_solver,
    seed_torch,
)
from spiky_rl.hosts.isaaclab.conditions.base import ActivityProtocol, PolicyProtocol
from spiky_rl.hosts.isaaclab.history import make_history_layout
from spiky_rl.hosts.isaaclab.measures import EpisodeMeasures
from spiky_rl.hosts.isaaclab.recovery import RecoveryMeter
from spiky_rl.hosts.isaaclab.workflows import EnvCfg
from spiky_rl.metrics.energy import average

if TYPE_CHECKING:
    from spiky_rl.hosts.isaaclab.environment import TimedVecEnv
SCALE_STEPS = 100
"""Control steps of random actions in which the deviation of every observed value is measured."""
STRIDE = 7
"""Activity is measured in every so many control steps: that costs more than acting, and 64 episodes are many samples."""


def configure_env(env_cfg: EnvCfg, names: Sequence[str]) -> None:
    """Make a task's ``env_cfg`` ready to be evaluated under the conditions ``names``, before the simulator starts."""
    share_env_origin(env_cfg)
    for name in names:
        CONDITIONS[name].configure(env_cfg)


def share_env_origin(env_cfg: EnvCfg) -> None:
    """Let ``env_cfg`` put MuJoCo-Warp's worlds, which never touch, in one place: positions are then rounded the same in each of them.

    A result so does not depend on how many others are simulated beside it.
    """
    if newton_solver(env_cfg) == "MJWarpSolverCfg":
        env_cfg.scene.env_spacing = 0.0


def restart(env: TimedVecEnv, parts: Sequence[Tensor], seed: int) -> TensorDict:
    """Begin an episode in every environment and return its first observations.

    Args:
        env: The environments.
        parts: Indices of environments; those of each part start in the states drawn from ``seed``.
        seed: Seed of the states.
    """
    base = env.unwrapped
    if hasattr(base, "observation_manager"):
        for ids in parts:
            with seed_torch(seed, base.device):
                base.reset(env_ids=ids.int())  # type: ignore[arg-type, call-arg]
    else:
        with seed_torch(seed, base.device):
            base.reset()
    return env.get_observations()


class RandomPolicy:
    """Actions of N(0, 1), the same for episode i of every condition."""

    def __init__(
        self, conditions: int, episodes: int, actions: int, seed: int, device: torch.device | str
    ) -> None:
        self.shape, self.copies = (episodes, actions), conditions
        self.generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, obs: TensorDict) -> Tensor:  # pylint: disable=unused-argument
        """Random actions [B, A], whatever ``obs`` is."""
        drawn = torch.randn(self.shape, generator=self.generator, device=self.generator.device)
        return drawn.repeat(self.copies, 1)

    def reset(self, dones: Tensor | None = None) -> None:
        """Do nothing, whatever is in ``dones``: random actions have no state."""


class PolicyGroup:
    """A policy and the changed copies of it that conditions put in its place, each on its own environments."""

    def __init__(
        self, policy: PolicyProtocol, conditions: Sequence[EvalCondition], adapting: Sequence[bool]
    ) -> None:
        """``adapting``: for each condition, whether what is plastic changes while the policy acts under it."""
        self.parts: list[tuple[Tensor, PolicyProtocol]] = []
        """Environments, and what acts on them; the unchanged policy first."""
        shared: list[Tensor] = []
        for condition, adapts in zip(conditions, adapting, strict=True):
            own = condition.perturb_policy(policy)
            if not own and not adapts:
                shared.append(condition.group.ids)
                continue
            own = own or [policy.copy()]
            for ids, copy in zip(condition.group.ids.tensor_split(len(own)), own, strict=True):
                copy.is_plastic = adapts
                self.parts.append((ids, copy))
        if shared:
            self.parts.insert(0, (torch.cat(shared), policy))

    def __call__(self, obs: TensorDict) -> Tensor:
        """Actions [B, A] for what all environments observe."""
        if len(self.parts) == 1:
            return self.parts[0][1](obs)
        found = [(ids, policy(obs[ids])) for ids, policy in self.parts]
        actions = found[0][1].new_zeros(obs.batch_size[0], found[0][1].shape[-1])
        for ids, part in found:
            actions[ids] = part
        return actions

    def reset(self, dones: Tensor | None = None) -> None:
        """Put the environments that are ``dones`` [B] at rest; without ``dones``, all of them."""
        for ids, policy in self.parts:
            policy.reset(None if dones is None else dones[ids])

    def activities(self, obs: TensorDict, running: Tensor) -> list[tuple[int, ActivityProtocol]]:
        """Return the activity in the control step that begins with ``obs`` of every policy that acts on environments ``running``.

        Each activity stands beside the number of those environments.
        """
        return [
            (len(part), policy.compute_activity(obs[ids], part))
            for ids, policy in self.parts
            if len(part := torch.isin(ids, running).nonzero().flatten())
        ]


class ConditionEvaluation:
    """Conditions in consecutive groups of environments, as many in each as there are episodes.

    All groups are reset from the same seed, so that episode i of every condition begins in the same state (in a task of the
    direct workflow, which can only reset all at once, it does not). What an environment does after its first episode does
    not count. In MuJoCo-Warp a world's physics is the same to the last bit whatever is simulated beside it; a policy's matrix
    products may round otherwise in a larger batch, which a walking robot turns into another episode of the same kind.
    """

    def __init__(
        self,
        env: TimedVecEnv,
        names: Sequence[str],
        episodes: int,
        groups: Sequence[str],
        seed: int,
        leg: str = "",
        adapting: bool = False,
    ) -> None:
        """Share the environments out among the conditions.

        Args:
            env: Isaac Lab's, with ``len(names) * episodes`` environments, twice as many if ``adapting``.
            names: Names of the conditions.
            episodes: Per condition.
            groups: Observation groups that the policy sees.
            seed: Seed of all that is drawn.
            leg: Names of the joints of one leg, as a regular expression.
            adapting: Measure the policy twice under every condition: with its weights as they are, and changing as it acts.
        """
        self.env, self.episodes, self.seed = env, episodes, seed
        self.groups, self.names = list(groups), list(names) * (1 + adapting)
        self.adapts = [i >= len(names) for i in range(len(self.names))]
        device = env.device
        self.ids = torch.arange(env.num_envs, device=device).split(episodes)
        obs = self.reset()
        self.shapes = [tuple(obs[group].shape[1:]) for group in self.groups]
        self.frames = make_history_layout(env.unwrapped, self.groups, self.shapes)
        new = len(self.frames.new)
        whole = new == len(self.frames.age)
        # of a history, every column that is new is a sensor
        sensors = map_values_to_sensors(self.shapes, device) if whole else torch.arange(new, device=device)
        deviation = (
            self.measure_observation_std()
            if "observation_noise" in names
            else torch.zeros(new, device=device)
        )
        self.middle = int(env.max_episode_length) // 2
        self.conditions: list[EvalCondition] = [
            CONDITIONS[name](EnvGroup(env.unwrapped, ids, seed, sensors, deviation, self.middle, leg))
            for name, ids in zip(self.names, self.ids, strict=True)
        ]

    def random_policy(self) -> RandomPolicy:
        """Random actions, from the beginning of their sequence."""
        return RandomPolicy(len(self.ids), self.episodes, self.env.num_actions, self.seed, self.env.device)

    def reset(self) -> TensorDict:
        """Begin an episode in every environment and return its first observations."""
        return restart(self.env, self.ids, self.seed)

    def values(self, obs: TensorDict) -> Tensor:
        """Observation of the policy in ``obs``, flat: [B, C]."""
        return torch.cat([obs[group].flatten(1) for group in self.groups], dim=1)

    def measure_observation_std(self) -> Tensor:
        """Standard deviation of every observed value, [C], under random actions.

        First episodes only: where the next ones begin depends on how many others there are.
        """
        policy, seen, obs = self.random_policy(), [], self.reset()
        first = torch.ones(self.episodes, dtype=torch.bool, device=self.env.device)
        for _ in range(SCALE_STEPS):
            seen.append(self.frames.select_newest(self.values(obs))[: self.episodes][first])
            obs, _, dones, _ = self.env.step(policy(obs))
            first = first & (dones[: self.episodes] == 0)
        return torch.cat(seen).std(dim=0, correction=0)

    def perturb(self, obs: TensorDict) -> TensorDict:
        """Observation ``obs`` as the policy receives it, each group of environments under its condition."""
        values = self.frames.select_newest(self.values(obs))
        seen = self.frames.assemble(
            torch.cat([c.perturb_observations(values[c.group.ids]) for c in self.conditions])
        )
        found, parts = obs.copy(), seen.split([int(torch.tensor(s).prod()) for s in self.shapes], dim=1)
        for group, part, shape in zip(self.groups, parts, self.shapes, strict=True):
            found[group] = part.unflatten(1, shape)
        return found

    def run(
        self, policy: PolicyProtocol | None, report_progress: Callable[[float], None] = lambda share: None
    ) -> tuple[list[dict[str, dict[str, Any]]], dict[str, Any] | None]:
        """Results by condition, those of the adapting policy in a second table, and what an action costs.

        The cost is that under the first condition; None where it is not known.

        Args:
            policy: None for random actions, whose firing rate and operations are None.
            tell: Called after every control step with the share of the longest episode that is over.
        """
        env = self.env
        acting = self.random_policy() if policy is None else PolicyGroup(policy, self.conditions, self.adapts)
        longest = int(env.max_episode_length)
        measures, recovery = EpisodeMeasures(env), RecoveryMeter(env.num_envs, longest, env.device)
        total, length = (torch.zeros(env.num_envs, device=env.device) for _ in range(2))
        ended: dict[str, Tensor] = {name: torch.zeros_like(total) for name in measures.names}
        first = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
        activity: list[list[tuple[int, ActivityProtocol]]] = [[] for _ in self.conditions]
        steps, seconds = 0, 0.0
        obs = self.reset()
        for condition in self.conditions:
            condition.begin()
        self.frames.reset()
        acting.reset()
        measures.reset()
        while first.any():
            seen = self.perturb(obs)
            if isinstance(acting, PolicyGroup) and steps % STRIDE == 0:
                for ids, found in zip(self.ids, activity, strict=True):
                    found += acting.activities(seen, ids[first[ids]])
            began = synchronize_time(env.device)
            actions = acting(seen)
            seconds += synchronize_time(env.device) - began
            actions = torch.cat([c.perturb_actions(actions[c.group.ids]) for c in self.conditions])
            for condition in self.conditions:
                condition.step()
            obs, rewards, dones, _ = env.step(actions)
            for condition in self.conditions:
                condition.reset(dones[condition.group.ids])
            self.frames.reset(dones)
            acting.reset(dones)
            recovery.add(rewards, first)
            total += rewards * first
            length += first
            over = dones.bool()
            for name, values in measures.step(dones).items():
                everywhere = torch.zeros_like(total).masked_scatter(over, values.to(total))
                ended[name] = torch.where(over & first, everywhere, ended[name])
            first = first & ~over
            steps += 1
            report_progress(steps / longest)
        results: list[dict[str, dict[str, Any]]] = [{}, {}] if any(self.adapts) else [{}]
        for name, adapts, condition, ids, found in zip(
            self.names, self.adapts, self.conditions, self.ids, activity, strict=True
        ):
            results[adapts][name] = {
                "text": condition.text,
                **_summarize_episodes(total[ids].tolist(), length[ids].long().tolist()),
                **_summarize_activity(found),
                "measures": {key: float(values[ids].mean()) for key, values in ended.items()},
                **({"recovery": recovery.compute(ids)} if condition.damages or name == "nominal" else {}),
            }
        return results, _cost(activity[0], env.num_envs * steps / seconds)


def _summarize_episodes(returns: list[float], lengths: list[int]) -> dict[str, Any]:
    return {
        "mean_return": statistics.fmean(returns),
        "std_return": statistics.stdev(returns) if len(returns) > 1 else 0.0,
        "returns": returns,
        "mean_length": statistics.fmean(lengths),
        "lengths": lengths,
    }


def _summarize_activity(activities: Sequence[tuple[int, ActivityProtocol]]) -> dict[str, Any]:
    """Means over control steps and environments."""
    if not activities:
        return {"firing_rate": None, "operations": None}
    weights = [count for count, _ in activities]
    return {
        "firing_rate": statistics.fmean([seen.rate for _, seen in activities], weights),
        "operations": statistics.fmean([seen.operations for _, seen in activities], weights),
    }


def _cost(found: Sequence[tuple[int, ActivityProtocol]], actions_per_second: float) -> dict[str, Any] | None:
    costs = [seen.cost for _, seen in found if seen.cost is not None]
    if not costs:
        return None
    cost = average(costs, [count for count, _ in found])
    return {
        **cost.to_dict(),
        "ann_dense_operations": found[0][1].ann_operations,
        "actions_per_second": actions_per_second,
        "effective_operations_per_second": cost.throughput(actions_per_second),
    }


def synchronize_time(device: torch.device | str) -> float:
    """The time in seconds when all that was begun on the ``device`` is done."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()

"""Observation history of Isaac Lab for agents without memory, and the layout of its frames."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from spiky_rl.config.registry import UserError
from spiky_rl.hosts.isaaclab.cfg_checks import get_used_groups
from spiky_rl.hosts.isaaclab.workflows import Env, EnvCfg


def set_history_length(env_cfg: EnvCfg, steps: int, obs_groups: Mapping[str, Sequence[str]]) -> None:
    """Set the history of every observation group that actor or critic use to ``steps`` control steps; 1 keeps the task's own.

    A role that is missing in the agent's ``obs_groups`` uses rsl_rl's default group. Raises UserError if the task's observations do not
    support a history.
    """
    if steps == 1:
        return
    observations = getattr(env_cfg, "observations", None)
    if observations is None:
        raise UserError(
            f"agent.history: {steps} control steps are not available: the task has no observation manager, which keeps them;"
            " use agent.history=1"
        )
    _, used = get_used_groups(observations, obs_groups)
    for role in ("actor", "critic"):
        for name in used[role]:
            group = getattr(observations, name, None)
            if group is None or not getattr(group, "concatenate_terms", False):
                raise UserError(
                    f"agent.history: {steps} control steps are not available for the observation group {name!r}, whose terms are"
                    " not one vector; use agent.history=1"
                )
            group.history_length, group.flatten_history_dim = steps, True


class HistoryLayout:
    """Age of each column of a flat observation [B, C], so that conditions on sensors perturb only the newest values.

    A perturbed value stays the same when it appears again as a past value in later steps.
    """

    def __init__(self, age: Tensor, source: Tensor) -> None:
        """Initialise the layout.

        Args:
            age: Control steps since each column was measured, [C].
            source: Index among the newest values of each column's value, [C].
        """
        self.age, self.source = age, source
        self.new = (age == 0).nonzero().flatten()
        self.past: list[Tensor] = []
        """Perturbed newest values of this and the previous control steps, [B, W] each, latest first."""
        self.episode_starts: Tensor | None = None
        """Whether an episode starts with the next control step, [B]; None if `reset` has not been called since the last one."""

    def select_newest(self, values: Tensor) -> Tensor:
        """Return the columns of ``values`` [B, C] that were measured in this control step, [B, W]."""
        return values if len(self.new) == len(self.age) else values[:, self.new]

    def assemble(self, newest: Tensor) -> Tensor:
        """Return the whole observation [B, C] with the perturbed ``newest`` values [B, W]; call it once per control step."""
        if len(self.new) == len(self.age):
            return newest
        previous = self.past[:-1] or [newest] * int(self.age.max())
        if self.episode_starts is not None:
            previous = [torch.where(self.episode_starts[:, None], newest, old) for old in previous]
        self.past, self.episode_starts = [newest, *previous], None
        return torch.stack(self.past)[self.age, :, self.source].t()

    def reset(self, dones: Tensor | None = None) -> None:
        """Start new episodes where ``dones`` [B], or everywhere without ``dones``, with the next control step."""
        if dones is None:
            self.past, self.episode_starts = [], None
        else:
            self.episode_starts = dones.bool()


def make_history_layout(env: Env, groups: Sequence[str], shapes: Sequence[Sequence[int]]) -> HistoryLayout:
    """Return the history layout of a policy's flat, concatenated observation ``groups`` with their ``shapes`` in one environment.

    ``env`` is Isaac Lab's own environment without wrappers.
    """
    ages, sources, first = [], [], 0
    for name, shape in zip(groups, shapes, strict=True):
        blocks = _list_blocks(env, name, math.prod(shape))
        widths = {term: width for _, term, width in blocks}
        starts = {term: first + sum(w for t, w in widths.items() if t < term) for term in widths}
        for age, term, width in blocks:
            ages.append(torch.full((width,), age))
            sources.append(starts[term] + torch.arange(width))
        first += sum(widths.values())
    return HistoryLayout(torch.cat(ages).to(env.device), torch.cat(sources).to(env.device))


def _list_blocks(env: Env, group: str, count: int) -> list[tuple[int, int, int]]:
    """Return (age, term, width) of each block of columns in a group, in order; one block for a group without a history."""
    manager = getattr(env, "observation_manager", None)
    if manager is None or not manager.group_obs_concatenate[group]:
        return [(0, 0, count)]
    cfg = getattr(manager.cfg, group)
    terms = [getattr(cfg, name) for name in manager.active_terms[group]]
    lengths = [max(1, term.history_length) for term in terms]
    if max(lengths) == 1:
        return [(0, 0, count)]
    blocks = [
        (age, i, math.prod(shape) // length)
        for i, (shape, length) in enumerate(zip(manager.group_obs_term_dim[group], lengths, strict=True))
        for age in reversed(range(length))
    ]
    if cfg.history_length and cfg.history_order == "time":
        blocks.sort(key=lambda block: -block[0])  # stable: the order of the terms stays
    return blocks

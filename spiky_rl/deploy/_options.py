"""The request for an export."""

from __future__ import annotations

from pathlib import Path

from spiky_rl.config import registry
from spiky_rl.config.options import Settings, option
from spiky_rl.deploy._targets import check_expressible, make_targets, require_chip
from spiky_rl.deploy.base import Target
from spiky_rl.learners import get_learner
from spiky_rl.learners.base import EXPORTS
from spiky_rl.run.prepare import merge_known_agent
from spiky_rl.run.run_plan import RunRequest


class ExportOptions(Settings):
    """What a user asks of an export, besides a `Request`."""

    to: str = option(
        "c",
        f"export targets with commas: {', '.join(registry.list_names('targets'))}; c-int8 is the same as c_int8",
        metavar="TARGETS",
    )
    out: Path | None = option(None, "output folder; null: exported/ in the run's folder", metavar="FOLDER")
    report: str | None = option(
        None,
        "print flash, state and stack of the C targets on a chip, measured with its compiler: cortex-m4",
        metavar="CHIP",
    )

    @property
    def target_names(self) -> list[str]:
        """The targets, as the registry has them."""
        return [name.strip().replace("-", "_") for name in self.to.split(",")]

    def check_request(self, asked: RunRequest) -> dict[str, Target]:
        """The targets by name; raise UserError for what cannot be exported, as far as that shows without Isaac Lab.

        Args:
            asked: The policy.
        """
        get_learner(asked.library).require_ability(EXPORTS, "export.py")
        built = make_targets(self.target_names)
        if self.report is not None:
            require_chip(self.report, built.values())
        if (agent := merge_known_agent(asked)) is not None:
            check_expressible(built.values(), agent)
        return built

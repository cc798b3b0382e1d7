"""What ``bench.py`` compares by its command line: networks, neurons, inner steps and contenders, checked before anything runs."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence

from benchmarks.common import check_name
from benchmarks.contenders import Setting
from benchmarks.entries import CONTENDERS, NETWORKS, REFERENCES
from spiky_rl.config import memory_check, registry
from spiky_rl.config.options import UserError, check_number, get_options
from spiky_rl.networks.feedforward import FeedForward
from spiky_rl.run.devices import get_memory


def quick(networks: Sequence[str]) -> list[str]:
    """The contenders of these networks that nobody has to name."""
    kinds = [kind for network in networks for kind in NETWORKS[network].kinds]
    return [name for name, entry in CONTENDERS.items() if entry.quick and entry.kind in kinds]


def chosen(names: Sequence[str] | None, networks: Sequence[str]) -> list[str]:
    """The contenders to run, references included; those of `quick` where ``names`` is None.

    Raises UserError for one that is unknown, of a network that is not compared, or named but not installed, and for a network
    of which none is named.
    """
    kinds = [kind for network in networks for kind in NETWORKS[network].kinds]
    for name in names or ():
        check_name("--contenders", name, ("all", *CONTENDERS))
        if name != "all" and CONTENDERS[name].kind not in kinds:
            wanted = next(key for key, each in NETWORKS.items() if CONTENDERS[name].kind in each.kinds)
            raise UserError(f"--contenders: {name!r} needs --networks {wanted}")
    every = names is not None and "all" in names
    found = {
        name
        for name, entry in CONTENDERS.items()
        if entry.kind in kinds and (every or name in (quick(networks) if names is None else names))
    }
    for name in sorted(found):
        package = CONTENDERS[name].package
        if package and importlib.util.find_spec(package) is None:
            missing = f"{name!r} is not installed; install it with: pip install {package}"
            if name in (names or ()):
                raise UserError(f"--contenders: {missing}")
            sys.stderr.write(f"left out: {missing}\n")
            found.remove(name)
    found |= {REFERENCES[CONTENDERS[name].kind] for name in found}
    for network in networks:
        if not any(CONTENDERS[name].kind in NETWORKS[network].kinds for name in found):
            raise UserError(f"--networks {network}: none of its contenders is named in --contenders")
    return [name for name in CONTENDERS if name in found]


def settings(args: argparse.Namespace, device: str) -> list[Setting]:
    """What is compared: every network with every neuron and K. Raises UserError for what does not exist or fit."""
    found = []
    for network in args.networks:
        kind = NETWORKS[network]
        steps, control = vars(args).get("steps", kind.usual_steps), (
            args.control_steps if kind.sequences else 1
        )
        neurons = chosen_neurons(vars(args).get("neurons", [kind.usual_neuron]))
        found += [kind(neuron, K, device, control) for neuron in neurons for K in steps]
    check_sizes(args, found, device)
    return found


def chosen_neurons(names: Sequence[str]) -> list[str]:
    """The neurons to run. Raises UserError for one that does not exist."""
    found = registry.list_names("neurons") if "all" in names else list(names)
    for name in found:
        if ":" not in name:
            check_name("--neurons", name, ("all", *registry.list_names("neurons")))
        try:
            registry.resolve("neurons", name)
        except registry.RegistryError as error:
            raise UserError(f"--neurons: {error}") from None
    return found


def check_sizes(args: argparse.Namespace, compared: Sequence[Setting], device: str) -> None:
    """Refuse what no machine does, or this one's memory cannot hold. Raises UserError."""
    for setting in compared:
        get_options(FeedForward.Options)["steps"].require("--steps", setting.steps)
    check_number("--threads", args.threads, int, low=1, high=os.cpu_count())
    batch = max(args.batch)
    largest = max(setting.numbers for setting in compared)
    memory_check.require_memory(
        {f"--batch {batch}": memory_check.NUMBER * batch * largest}, get_memory(device)
    )

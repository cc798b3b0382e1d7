"""The networks, neurons, inner steps and contenders of a ``bench.py`` command line, checked before anything runs."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Collection, Sequence

from benchmarks.common import check_name
from benchmarks.contenders import RATE, Setting
from benchmarks.entries import CONTENDERS, NETWORKS, REFERENCES
from spiky_rl.config import memory_check, registry
from spiky_rl.config.options import UserError, check_number, get_options
from spiky_rl.networks.feedforward import FeedForward
from spiky_rl.run.devices import get_memory

CONTROL_STEPS = 24
"""Default number of control steps of networks that run over several."""


def list_contenders(networks: Sequence[str]) -> list[str]:
    """Return all contenders of these networks."""
    kinds = [kind for network in networks for kind in NETWORKS[network].kinds]
    return [name for name, entry in CONTENDERS.items() if entry.kind in kinds]


def list_default_contenders(networks: Sequence[str]) -> list[str]:
    """Return the contenders of these networks that run by default."""
    return [name for name in list_contenders(networks) if CONTENDERS[name].quick]


def choose_contenders(names: Sequence[str] | None, networks: Sequence[str], device: str) -> list[str]:
    """Return the contenders to run on ``device``, with their references; None as ``names`` takes `list_default_contenders`.

    Raises UserError for a contender that is unknown, needs another network, or is named but not installed or for the CPU only, and for a
    network without contenders.
    """
    allowed, named = list_contenders(networks), set(names or ())
    for name in names or ():
        _check_contender(name, allowed)
    if names is None:
        candidates = list_default_contenders(networks)
    else:
        candidates = allowed if "all" in named else names
    chosen = {
        name
        for name in sorted(candidates)
        if runs_on(name, device, required=name in named) and is_installed(name, required=name in named)
    }
    chosen |= {REFERENCES[CONTENDERS[name].kind] for name in chosen}
    _require_networks(networks, chosen)
    return [name for name in CONTENDERS if name in chosen]


def require_usual_neurons(names: Sequence[str] | None, settings: Sequence[Setting]) -> None:
    """Raise UserError for a peer in ``names`` if no setting of its network has the usual neuron, the only one that peers run."""
    for name in names or ():
        if name == "all" or not CONTENDERS[name].package:
            continue
        of_network = [setting for setting in settings if CONTENDERS[name].kind in setting.kinds]
        usual = of_network[0].usual_neuron
        if all(setting.neuron != usual for setting in of_network):
            raise UserError(f"--contenders: {name!r} runs with --neurons {usual} only")


def _require_networks(networks: Sequence[str], contenders: Collection[str]) -> None:
    """Raise UserError for a network that none of the ``contenders`` runs."""
    kinds = {CONTENDERS[name].kind for name in contenders}
    for network in networks:
        if kinds.isdisjoint(NETWORKS[network].kinds):
            raise UserError(f"--networks {network}: none of its contenders is named in --contenders")


def _check_contender(name: str, allowed: Sequence[str]) -> None:
    """Raise UserError unless ``name`` is ``all`` or one of the ``allowed`` contenders."""
    check_name("--contenders", name, ("all", *CONTENDERS))
    if name not in ("all", *allowed):
        needed = next(key for key, network in NETWORKS.items() if CONTENDERS[name].kind in network.kinds)
        raise UserError(f"--contenders: {name!r} needs --networks {needed}")


def runs_on(name: str, device: str, required: bool) -> bool:
    """Return whether a contender runs on ``device``. If a ``required`` one does not, raise UserError; otherwise write to stderr."""
    if not CONTENDERS[name].cpu_only or device == "cpu":
        return True
    _leave_out(f"{name!r} runs with --device cpu only", required)
    return False


def is_installed(name: str, required: bool) -> bool:
    """Return whether the package of a contender is installed. If a ``required`` one is not, raise UserError; otherwise write to stderr."""
    package = CONTENDERS[name].package
    if not package or _is_importable(package):
        return True
    _leave_out(f"{name!r} is not installed; install it with: pip install {package}", required)
    return False


def _leave_out(reason: str, required: bool) -> None:
    """Write to stderr that a contender is left out. Raise UserError instead if it is ``required``."""
    if required:
        raise UserError(f"--contenders: {reason}")
    sys.stderr.write(f"left out: {reason}\n")


def _is_importable(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # ``package`` is a part, such as brainpy.state, and its parent is missing
        return False


def build_settings(args: argparse.Namespace, device: str) -> list[Setting]:
    """Return the settings to compare: every network with every neuron and K. Raises UserError for invalid arguments."""
    kinds = [NETWORKS[network] for network in args.networks]
    if args.rate != [RATE] and not any(kind.sets_rate for kind in kinds):
        raise UserError(
            f"--rate: not available with --networks {args.networks[0]}, which has its agent's rate"
        )
    if args.control_steps != CONTROL_STEPS and not any(kind.has_sequences for kind in kinds):
        raise UserError(f"--control-steps: not available with --networks {args.networks[0]}, which has one")
    settings = []
    for kind in kinds:
        steps = vars(args).get("steps", kind.usual_steps)
        control_steps = args.control_steps if kind.has_sequences else 1
        neurons = resolve_neurons(vars(args).get("neurons", [kind.usual_neuron]))
        settings += [
            kind(neuron, K, device, control_steps, rate)
            for neuron in neurons
            for K in steps
            for rate in (args.rate if kind.sets_rate else [RATE])
        ]
    check_sizes(args, settings, device)
    return settings


def resolve_neurons(names: Sequence[str]) -> list[str]:
    """Return the neurons to run. Raises UserError for an unknown one."""
    neurons = registry.list_names("neurons") if "all" in names else list(names)
    for name in neurons:
        if not registry.is_foreign(name):
            check_name("--neurons", name, ("all", *registry.list_names("neurons")))
        try:
            registry.resolve("neurons", name)
        except registry.RegistryError as error:
            raise UserError(f"--neurons: {error}") from None
    return neurons


def check_sizes(args: argparse.Namespace, settings: Sequence[Setting], device: str) -> None:
    """Raise UserError if a number is out of range, or this machine has too little memory."""
    for setting in settings:
        get_options(FeedForward.Options)["steps"].require("--steps", setting.steps)
    check_number("--threads", args.threads, int, low=1, high=os.cpu_count())
    for rate in args.rate:
        check_number("--rate", rate, float, low=0.01, high=0.9)
    batch = max(args.batch)
    values = batch * max(setting.values_per_sample for setting in settings)
    memory_check.require_memory({f"--batch {batch}": memory_check.NUMBER * values}, get_memory(device))

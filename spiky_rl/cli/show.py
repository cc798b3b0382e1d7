"""``show.py``: lists of what there is, and of what it is made of."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from spiky_rl.cli import common
from spiky_rl.cli.flags import add_flags
from spiky_rl.cli.tables import print_columns
from spiky_rl.config import files, registry
from spiky_rl.config.extras import require
from spiky_rl.config.options import UserError, declared, nearest
from spiky_rl.config.plan import Request
from spiky_rl.config.spec import flatten, load_task, parse_overrides, read_agent, read_yaml, resolve_agent

KINDS = (*registry.DATA, *registry.ROOMS)
RESERVOIR = "reservoir"
"""Not a kind with entries but one thing to look at: it is measured and drawn."""
SCHEMA = "schema"
"""Not a kind either: what the files of a kind may hold."""


def parser() -> common.Parser:
    """The command line."""
    found = common.Parser(prog="show.py", description="List what there is, or what one entry is made of.")
    found.add_argument(
        "kind",
        choices=(*KINDS, RESERVOIR, SCHEMA),
        help="what to list; reservoir: what to measure; schema: JSON Schemas",
    )
    found.add_argument(
        "name",
        nargs="?",
        help="one entry: what it is and what it can be set to; a reservoir: a grown graph's .json, or an agent; a schema: agent,"
        " task or study",
    )
    found.add_argument(
        "--source", action="store_true", help="with a neuron: the C that it becomes on every backend"
    )
    found.add_argument("--task", help="with an agent: the merged specification for this task")
    add_flags(found, Request, only=("library",), library="rsl_rl")
    found.add_argument(
        "--out", type=Path, help="with a reservoir: its picture; default: NAME.png in this folder"
    )
    found.add_argument(
        "--compare", action="store_true", help="with a reservoir: NARMA-10 beside echo-state networks"
    )
    found.add_argument("overrides", nargs="*", metavar="key=value", help="agent.x.y=v, as for train.py")
    return found


def show(argv: list[str]) -> int:
    """Print what was asked for."""
    args = parser().parse_intermixed_args(argv)
    if args.source and (args.kind != "neurons" or args.name is None):
        raise UserError("--source goes with a neuron, as in: show.py neurons lif --source")
    if (args.out or args.compare) and args.kind != RESERVOIR:
        raise UserError(
            "--out and --compare go with a reservoir, as in: show.py reservoir grown.json --compare"
        )
    if args.kind == RESERVOIR:
        if args.name is None:
            raise UserError(
                "name a reservoir: a grown graph's .json, or an agent, as in: show.py reservoir grown.json"
            )
        show_reservoir(args.name, args.out, args.compare)
    elif args.kind == SCHEMA:
        from spiky_rl.experiments.design import json_schema

        print(json_schema.schema_text(args.name))
    elif args.name is None:
        print_columns([(name, summary(args.kind, name)) for name in registry.names(args.kind)])
    elif args.source:
        show_source(args.kind, args.name)
    elif args.kind == "agents":
        show_agent(args.name, args.task, args.overrides, args.library)
    elif args.kind == "tasks":
        show_task(args.name)
    elif args.kind == "spaces":
        from spiky_rl.experiments.design import tuning_space

        data = tuning_space.read(args.name).data
        print_columns([(key, str(value)) for key, value in flatten(data).items()])
    else:
        show_component(args.kind, args.name)
    return 0


def show_agent(name: str, task: str | None, overrides: list[str], library: str) -> None:
    """An agent's own file, or its merged specification for a task, every value with its origin."""
    _, data, _ = read_agent(name)
    parse_overrides(overrides)
    if task is None:
        print(data.get("summary", ""))
        print(f"{registry.data_dir('agents') / name}.yaml" if not name.endswith(".yaml") else name)
        print("\nAdd --task to see every value of a run and where it comes from.")
        return
    require("isaaclab", "isaaclab")
    task_spec = load_task(task)
    from spiky_rl.hosts.isaaclab.environment import resolve_task
    from spiky_rl.hosts.run.prepare import load_host

    gym_id = resolve_task(task_spec.id if task_spec else task)
    spec = resolve_agent(name, gym_id, load_host(library, gym_id)[1], overrides, task_spec)
    print(f"{spec.name} on {gym_id}    hash {spec.digest}\n")
    print_columns([(path, _plain(value), origin) for path, value, origin in spec.rows()])


def show_reservoir(name: str, out: Path | None, compare: bool) -> None:
    """A reservoir's structure and measures, and its picture in a file."""
    out = out or Path(f"{Path(name).stem}.png")
    files.require_file("--out", out, (".png", ".pdf", ".svg"))
    require("matplotlib", "isaaclab")
    import torch

    from spiky_rl.reservoirs import description
    from spiky_rl.reservoirs.picture import figure

    torch.set_num_threads(1)
    named = description.load(name)
    print(f"{named.name}: {named.title}\n")
    print_columns(description.structure(named.net.wiring))
    print()
    print_columns(description.measures(named.net))
    if compare:
        print()
        print_columns(description.comparison(named.net))
    files.write(out, lambda beside: figure(named).savefig(beside, dpi=150, format=out.suffix[1:]))
    print(f"\npicture: {out}")


def show_task(name: str) -> None:
    """A task's file."""
    task = load_task(name)
    if task is None:
        known = registry.names("tasks")
        raise UserError(f"unknown task {name!r}; known: {', '.join(known)}{nearest(name, known)}")
    print_columns([(key, _plain(getattr(task, key))) for key in type(task).model_fields])


def show_component(kind: str, name: str) -> None:
    """A component's text and options."""
    cls = registry.resolve(kind, name)
    print((sys.modules[cls.__module__].__doc__ or cls.__doc__ or "").strip(), "\n")
    if about := getattr(cls, "about", None):
        print_columns(about())
        print()
    rows = [("option", "default", "allowed", "meaning")]
    for key, option in declared(cls.Options).items():
        unit = option.unit if option.unit != "1" else ""
        rows.append((key, f"{_plain(option.default)} {unit}".strip(), option.allowed, option.meaning))
    rows += [
        (key, _component(default), f"one of show.py {part_kind}", "component")
        for key, (part_kind, default) in cls.parts.items()
    ]
    print_columns(rows)


def _component(default: str | Mapping[str, Any] | None) -> str:
    """The default of a part, as an agent would write it."""
    if isinstance(default, Mapping):
        return f"{{{', '.join(f'{key}: {value}' for key, value in default.items())}}}"
    return default or "none"


def show_source(kind: str, name: str) -> None:
    """The C of a neuron's step and adjoint, with its default options and the arctangent for its spikes."""
    from spiky_rl.kernels import contract, emit

    neuron = registry.configure(kind, name, name).build()
    surrogate = registry.configure("surrogates", "arctangent", "surrogate").build()
    contract.check(neuron, surrogate)
    program = emit.program(neuron, surrogate, (False,) * len(neuron.params))
    print(f"// u: numbers computed on the host from {', '.join(program.names)} and the surrogate's slope")
    print(program.text.rstrip())


def summary(kind: str, name: str) -> str:
    """What an entry says of itself in one line."""
    if kind in registry.DATA:
        return str(read_yaml(registry.data_dir(kind) / f"{name}.yaml").get("summary", ""))
    return registry.summary(kind, name)


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


main = partial(common.run, show)
"""Entry point of ``scripts/show.py``."""

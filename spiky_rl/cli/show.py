"""``show.py``: lists of what there is, and of what it is made of."""

from __future__ import annotations

import argparse
from pathlib import Path

from spiky_rl.cli import common
from spiky_rl.cli.flags import add_flags
from spiky_rl.cli.tables import print_columns
from spiky_rl.config import files, registry
from spiky_rl.config.descriptions import format_value, get_summary, get_text, list_option_rows
from spiky_rl.config.optional_dependencies import require_module
from spiky_rl.config.options import UserError, suggest_name
from spiky_rl.config.run_plan import RunRequest
from spiky_rl.config.schema import ANN_KEYS
from spiky_rl.config.spec import flatten, load_task, parse_overrides, read_agent

KINDS = (*registry.FILE_KINDS, *registry.COMPONENT_KINDS)
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
    found.add_argument(
        "--task", help="with an agent: its merged specification for this task, on --rl_library"
    )
    add_flags(found, RunRequest, only=("library",), library="rsl_rl")
    found.add_argument(
        "--out", type=Path, help="with a reservoir: its picture; default: NAME.png in this folder"
    )
    found.add_argument(
        "--compare", action="store_true", help="with a reservoir: NARMA-10 beside echo-state networks"
    )
    found.add_argument("--json", type=Path, metavar="FILE", help="with --compare: its numbers, as a file")
    found.add_argument(
        "overrides", nargs="*", metavar="key=value", help="with an agent or its reservoir: agent.x.y=v"
    )
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
    if args.overrides and args.kind not in ("agents", RESERVOIR):
        raise UserError(
            f"{args.overrides[0]}: overrides go with an agent or a reservoir, not with {args.kind}"
        )
    if args.json and not args.compare:
        raise UserError(
            "--json goes with --compare, as in: show.py reservoir grown.json --compare --json grown.json"
        )
    if args.kind == RESERVOIR:
        if args.name is None:
            raise UserError(
                "name a reservoir: a grown graph's .json, or an agent, as in: show.py reservoir grown.json"
            )
        show_reservoir(args)
    elif args.kind == SCHEMA:
        from spiky_rl.experiments.design import json_schema

        print(json_schema.format_schema(args.name))
    elif args.name is None:
        print_columns([(name, get_summary(args.kind, name)) for name in registry.list_names(args.kind)])
    elif args.source:
        from spiky_rl.kernels import neuron_checks

        print(neuron_checks.get_generated_source(args.kind, args.name))
    elif args.kind == "agents":
        show_agent(args.name, args.task, args.overrides, args.library)
    elif args.kind == "tasks":
        show_task(args.name)
    elif args.kind == "spaces":
        from spiky_rl.experiments.design import tuning_space

        data = tuning_space.read_space(args.name).data
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
    require_module("isaaclab", "isaaclab")
    from spiky_rl.run.prepare import merge_agent_on_task

    gym_id, spec = merge_agent_on_task(name, task, library, overrides)
    print(f"{spec.name} on {gym_id}    hash {spec.digest}\n")
    roles = [role for role, network in (("actor", spec.network), ("critic", spec.critic_network)) if network]
    replaced = {f"{role}.{key}" for role in roles for key in ANN_KEYS}
    rows = [
        (path, format_value(value), origin)
        for path, value, origin in spec.list_values()
        if path not in replaced
    ]
    print_columns(rows)


def show_reservoir(args: argparse.Namespace) -> None:
    """A reservoir's structure and measures, and its picture in a file."""
    out = args.out or Path(f"{Path(args.name).stem}.png")
    files.require_file("--out", out, (".png", ".pdf", ".svg"))
    if args.json:
        files.require_file("--json", args.json, (".json",))
    require_module("matplotlib", "isaaclab")
    import torch

    from spiky_rl.reservoirs import description
    from spiky_rl.reservoirs.picture import draw_graph

    torch.set_num_threads(1)
    named = description.load_reservoir(args.name, args.overrides)
    net = named.net
    print(f"{named.name}: {named.title}\n")
    print_columns(description.describe_structure(net.wiring))
    print()
    print_columns(description.compute_measures(net))
    if args.compare:
        found = description.compare_with_echo_state(net)
        print()
        print_columns(description.format_comparison(found))
        if args.json:
            sizes = {"neurons": net.size, "features": net.size * len(net.trace_decays)}
            files.write_json(
                args.json, {"reservoir": named.name, "overrides": args.overrides, **sizes, "nrmse": found}
            )
    files.write_atomically(
        out, lambda beside: draw_graph(named).savefig(beside, dpi=150, format=out.suffix[1:])
    )
    print(f"\npicture: {out}")


def show_task(name: str) -> None:
    """A task's file."""
    task = load_task(name)
    if task is None:
        known = registry.list_names("tasks")
        raise UserError(f"unknown task {name!r}; known: {', '.join(known)}{suggest_name(name, known)}")
    print_columns([(key, format_value(getattr(task, key))) for key in type(task).model_fields])


def show_component(kind: str, name: str) -> None:
    """A component's text and options."""
    cls = registry.resolve(kind, name)
    print(get_text(cls), "\n")
    if about := getattr(cls, "describe", None):
        print_columns(about())
        print()
    print_columns([("option", "default", "allowed", "meaning"), *list_option_rows(cls)])

"""``spiky show``: list components, agents and tasks, or describe one of them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pydantic_core import PydanticUndefined

from spiky_rl.cli import common
from spiky_rl.cli.flags import add_flags
from spiky_rl.cli.tables import print_columns, print_text
from spiky_rl.config import files, registry
from spiky_rl.config.errors import require_module
from spiky_rl.config.options import OptionInfo, UserError, get_options, suggest_name
from spiky_rl.config.plain_data import PlainValue
from spiky_rl.config.schema import ANN_KEYS
from spiky_rl.config.spec import flatten, load_task, parse_overrides, read_agent, read_yaml
from spiky_rl.run import policies
from spiky_rl.run.run_plan import RunRequest

KINDS = (*registry.FILE_KINDS, *registry.COMPONENT_KINDS)
RESERVOIR = "reservoir"
"""First argument that measures and draws one reservoir instead of listing a kind."""
SCHEMA = "schema"
"""First argument that prints JSON Schemas of files instead of listing a kind."""


def build_parser() -> common.Parser:
    """Build the parser of the command."""
    command_parser = common.Parser("show", "List the components, agents and tasks, or describe one of them.")
    command_parser.add_argument(
        "kind",
        choices=(*KINDS, RESERVOIR, SCHEMA),
        help="kind to list; reservoir: measure and draw a reservoir; schema: print JSON Schemas",
    )
    command_parser.add_argument(
        "name",
        nargs="?",
        help="entry to describe, with its options; with reservoir: .json of a grown graph, or an agent; with schema: agent,"
        " task or study",
    )
    command_parser.add_argument(
        "--source", action="store_true", help="with a neuron: print its generated C code for each backend"
    )
    command_parser.add_argument(
        "--task",
        help="with an agent: print its merged specification for this task, with the origin of each value",
    )
    add_flags(command_parser, RunRequest, only=("library",), library=None)
    command_parser.add_argument(
        "--out",
        type=Path,
        help="with a reservoir: file of the picture; default: NAME.png in the current folder",
    )
    command_parser.add_argument(
        "--compare",
        action="store_true",
        help="with a reservoir: compare its NARMA-10 error with that of echo-state networks",
    )
    command_parser.add_argument(
        "--json", type=Path, metavar="FILE", help="with --compare: write its numbers to FILE"
    )
    command_parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="with an agent or its reservoir: agent.x.y=v",
    )
    return command_parser


def show(argv: list[str]) -> int:
    """Print the list or the description."""
    args = build_parser().parse(argv)
    check_combination(args)
    if args.task or args.source or args.kind == RESERVOIR:
        common.announce(f"describing {args.name or args.kind}{f' on {args.task}' if args.task else ''}")
    if args.name is None and args.kind in KINDS:
        print_columns([(name, get_summary(args.kind, name)) for name in registry.list_names(args.kind)])
    else:
        PRINTERS.get(args.kind, show_component)(args)
    return 0


def check_combination(args: argparse.Namespace) -> None:
    """Raise UserError if an argument does not go with the kind of component, or the name of a reservoir is missing."""
    is_reservoir, has_name = args.kind == RESERVOIR, args.name is not None
    example = "spiky show agents lif_ppo --task CartPole-v1"
    faults = {  # error -> whether it applies
        "--source: only available for a neuron, as in: spiky show neurons lif --source": (
            args.source and not (args.kind == "neurons" and has_name)
        ),
        f"--task: only available for an agent, as in: {example}": (
            args.task and not (args.kind == "agents" and has_name)
        ),
        f"--rl_library: needs --task, as in: {example} --rl_library skrl": args.library and not args.task,
        "--out, --compare: only available for a reservoir, as in: spiky show reservoir grown.json --compare": (
            (args.out or args.compare) and not is_reservoir
        ),
        f"{''.join(args.overrides[:1])}: overrides are only available for an agent or a reservoir, not for {args.kind}": (
            args.overrides and args.kind not in ("agents", RESERVOIR)
        ),
        "--json: needs --compare, as in: spiky show reservoir grown.json --compare --json grown.json": (
            args.json and not args.compare
        ),
        "name: missing; give the .json of a grown graph, or an agent, as in: spiky show reservoir grown.json": (
            is_reservoir and not has_name
        ),
    }
    for message, applies in faults.items():
        if applies:
            raise UserError(message)


def show_agent(args: argparse.Namespace) -> None:
    """Print an agent's summary and file, or its merged specification for a task with the origin of every value."""
    name, overrides = args.name, args.overrides
    _, data, _ = read_agent(name)
    parse_overrides(overrides)  # raises if an override is invalid
    if args.task is None:
        print_text(data.get("summary", ""))
        print(f"{registry.find_data_folder('agents') / name}.yaml" if not name.endswith(".yaml") else name)
        print("\nAdd --task to see every value of a run and its origin.")
        return
    from spiky_rl.run.prepare import merge_agent_on_task

    gym_id, spec = merge_agent_on_task(name, args.task, args.library, overrides)
    print(f"{spec.name} on {gym_id}    hash {spec.digest}\n")
    # a spiking network does not use the keys of the ANN that it replaces
    roles = [role for role, network in (("actor", spec.network), ("critic", spec.critic_network)) if network]
    unused = {f"{role}.{key}" for role in roles for key in ANN_KEYS}
    rows = [
        (path, _format_cell(value), origin)
        for path, value, origin in spec.list_values()
        if path not in unused
    ]
    print_columns(rows)


def show_reservoir(args: argparse.Namespace) -> None:
    """Print a reservoir's structure and measures, and write its picture."""
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
        errors = description.compare_with_echo_state(net)
        print()
        print_columns(description.format_comparison(errors))
        if args.json:
            sizes = {"neurons": net.size, "features": net.size * net.traces}
            files.write_json(
                args.json, {"reservoir": named.name, "overrides": args.overrides, **sizes, "nrmse": errors}
            )
    files.write_atomically(
        out, lambda temporary: draw_graph(named).savefig(temporary, dpi=150, format=out.suffix[1:])
    )
    print(f"\npicture: {out}")


def show_task(args: argparse.Namespace) -> None:
    """Print a task's values."""
    name, task = args.name, load_task(args.name)
    if task is None:
        task_names = registry.list_names("tasks")
        raise UserError(
            f"unknown task {name!r}; known: {', '.join(task_names)}{suggest_name(name, task_names)}"
        )
    print_columns([(key, _format_cell(getattr(task, key))) for key in type(task).model_fields])


def _require_known(args: argparse.Namespace) -> None:
    """Raise UserError unless the name is one of its kind."""
    names = registry.list_names(args.kind)
    if args.name not in names:
        known = f"{args.name!r} given; allowed: {', '.join(names)}{suggest_name(args.name, names)}"
        raise UserError(f"{args.kind}: {known}")


def show_policy(args: argparse.Namespace) -> None:
    """Print the manifest of a shipped policy, without its specification."""
    _require_known(args)
    rows = flatten(policies.read_policy(args.name).model_dump(exclude={"spec": True}))
    print_columns([(key, _format_cell(value)) for key, value in rows.items()])


def show_space(args: argparse.Namespace) -> None:
    """Print the values of a search space."""
    if not args.name.endswith(".yaml"):
        _require_known(args)
    from spiky_rl.experiments.design import tuning_space

    data = tuning_space.read_space(args.name).content.model_dump(exclude_unset=True)
    print_columns([(key, str(value)) for key, value in flatten(data).items()])


def show_schema(args: argparse.Namespace) -> None:
    """Print the JSON Schema of a kind of file."""
    from spiky_rl.experiments.design import json_schema

    print(json_schema.format_schema(args.name))


PRINTERS = {
    "agents": show_agent,
    "tasks": show_task,
    "spaces": show_space,
    policies.KIND: show_policy,
    RESERVOIR: show_reservoir,
    SCHEMA: show_schema,
}
"""First argument -> function that prints one of its entries; components have `show_component`."""


def show_component(args: argparse.Namespace) -> None:
    """Print a component's documentation and options, or the generated code of a neuron."""
    if args.source:
        from spiky_rl.kernels import neuron_checks

        print(neuron_checks.get_generated_source(args.name))
        return
    cls = registry.resolve(args.kind, args.name)
    print_text(get_documentation(cls, args.name))
    if about := getattr(cls, "describe", None):
        print_columns(about())
        print()
    rows = [("option", "default", "allowed", "description")]
    for key, option in get_options(cls.Options).items():
        rows.append((key, _format_default(option), option.allowed_text, option.description))
    for key, (kind, default) in cls.parts.items():
        rows.append((key, _format_part(default), f"one of spiky show {kind}", "component"))
    print_columns(rows)


def get_documentation(cls: type, name: str) -> str:
    """Return the docstring of a component's file; for one of several in a file of the user's own, that of its class."""
    module = sys.modules[cls.__module__]
    components = [
        defined
        for defined in registry.list_defined_classes(module)
        if issubclass(defined, registry.Component)
    ]
    shares_file = ":" in name and len(components) > 1
    return (shares_file and cls.__doc__) or module.__doc__ or cls.__doc__ or ""


def get_summary(kind: str, name: str) -> str:
    """Return one line that describes an entry of a component kind or a file kind."""
    if kind in registry.FILE_KINDS:
        return str(read_yaml(registry.find_data_folder(kind) / f"{name}.yaml").get("summary", ""))
    return registry.read_summary(kind, name)


def _format_default(option: OptionInfo) -> str:
    """Format the default of an option with its unit; ``required`` if it has none."""
    if option.default is PydanticUndefined:
        return "required"
    unit = "" if option.unit == "1" or option.default is None else option.unit
    return f"{_format_cell(option.default)} {unit}".strip()


def _format_cell(value: object) -> str:
    """Format a value for a table: a list without brackets."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _format_part(default: PlainValue) -> str:
    """Format the default of a part as in an agent file."""
    if isinstance(default, dict):
        return f"{{{', '.join(f'{key}: {value}' for key, value in default.items())}}}"
    return str(default) if default else "none"

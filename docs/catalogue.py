"""Writer of the catalogue: a page per kind of component, from the registry alone.

The section of an entry consists of its module's docstring, with indented blocks as mathematics, a picture, and its options with
units and ranges. A new file in a component folder is on its page after the next ``make docs``.
"""

from __future__ import annotations

import html
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import equations
import pictures
import yaml
from matplotlib.figure import Figure
from pydantic_core import PydanticUndefined

from spiky_rl.config import registry
from spiky_rl.config.options import OptionInfo, get_options
from spiky_rl.config.registry import Component
from spiky_rl.config.spec import read_agent

KINDS = {
    "neurons": (
        "Neurons",
        "Dynamics of a neuron for an input current: states, spike condition and reset.",
    ),
    "surrogates": (
        "Surrogates",
        "Derivatives of a spike for the backward pass, where its true derivative is zero or undefined.",
    ),
    "encoders": ("Encoders", "Observations into the signal for the first layer."),
    "decoders": (
        "Decoders",
        "Spikes of the last layer into features for the action distribution or the value.",
    ),
    "connections": (
        "Connections",
        "Spikes of a layer into currents of the next layer, or of its own neurons.",
    ),
    "rules": (
        "Learning rules",
        "Gradients and local rules that change the weights. The pictures plot the change of each weight against the change by BPTT, for"
        " the same network, batch and loss, each in units of its standard deviation. EventProp and SpikeProp have their own forward"
        " pass, in which spikes have a time within the step; STDP uses no error.",
    ),
    "penalties": ("Penalties", "Loss terms on activity."),
    "networks": (
        "Networks",
        "Architectures built from the components, with K inner steps in each control step.",
    ),
    "graphs": ("Graphs", "Wiring of a reservoir."),
    "plasticities": ("Plasticity", "Changes of a reservoir while it runs, without a gradient."),
    "targets": ("Export targets", "File formats of a trained policy for other programs and chips."),
    "backends": (
        "Backends",
        "Kernel backends of neurons and connections; the torch reference does what a backend lacks.",
    ),
    "datasets": ("Datasets", "Recordings of event sensors for classification, yours included."),
    "agents": (
        "Agents",
        "YAML files with a network, a learning rule and changes to Isaac Lab's own PPO.",
    ),
    "tasks": ("Tasks", "YAML files with a host's task and its default number of environments."),
    "spaces": ("Search spaces", "YAML files with the options that `tune.py` may change."),
    "policies": (
        "Trained policies",
        "Weights with a manifest, for `--checkpoint pretrained` of play, evaluate, export and train.",
    ),
}
"""Kind -> title and first paragraph of its page, in the order of the pages."""


def list_kinds() -> dict[str, tuple[str, str]]:
    """Return `KINDS`, then all other kinds of the registry with their name as title."""
    every = (*registry.COMPONENT_KINDS, *registry.FILE_KINDS)
    return KINDS | {kind: (kind.capitalize(), "") for kind in every if kind not in KINDS}


def write(folder: Path) -> list[tuple[str, str]]:
    """Write all pages and pictures below ``folder``; return (title, file) of each page."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = [("Overview", "index.md")]
    (folder / "index.md").write_text(format_overview(), encoding="utf-8")
    for kind, (title, lead) in list_kinds().items():
        sections = (
            write_file_sections(kind)
            if kind in registry.FILE_KINDS
            else write_component_sections(kind, folder / "pictures")
        )
        text = "\n\n".join([f"# {title}", lead, *sections])
        (folder / f"{kind}.md").write_text(f"{text}\n", encoding="utf-8")
        pages.append((title, f"{kind}.md"))
    return pages


def format_overview() -> str:
    """Return the page that lists the entries of every kind, each with a link."""
    lines = [
        "# What there is",
        "",
        "Every entry is one file: a Python file in its room, or a YAML file. This page and all below it are made from the registry.",
        "",
    ]
    for kind, (title, lead) in list_kinds().items():
        entries = " · ".join(f"[`{name}`]({kind}.md#{name})" for name in registry.list_names(kind))
        lines += [f"## [{title}]({kind}.md)", "", lead.partition(". ")[0].rstrip(".") + ".", "", entries, ""]
    return "\n".join(lines)


def write_component_sections(kind: str, folder: Path) -> Iterator[str]:
    """Yield a section with text, picture and options for each component of a kind; save its picture into ``folder``."""
    for name in registry.list_names(kind):
        cls = registry.resolve(kind, name)
        module = sys.modules[cls.__module__]
        head, _, rest = (module.__doc__ or cls.__doc__ or name).strip().partition("\n")
        parts = [
            f"## `{name}` {{ #{name} }}",
            format_docstring(head),
            format_docstring(rest, [*cls.Options.model_fields, *cls.parts]),
        ]
        if figure := draw_entry(kind, name):
            pictures.save(figure, folder / f"{kind}_{name}.svg")
            caption = html.escape((pictures.PAINTERS[kind].__doc__ or "").strip())
            parts.append(f"![{name}: {caption}](pictures/{kind}_{name}.svg){{ .drawing }}")
        if about := getattr(cls, "describe", None):
            rows = "\n".join(f"| {key} | {escape_cell(value)} |" for key, value in about())
            parts.append(f"| declared | |\n| --- | --- |\n{rows}")
        yield "\n\n".join([*parts, format_options(cls), format_source_link(module.__file__)])


def draw_entry(kind: str, name: str) -> Figure | None:
    """Draw a component with its default options, or with those of the first agent that uses it if an option has no default.

    Returns None if components of this kind have no picture, or if the component needs a file, as the network `nir` does.
    """
    try:
        return pictures.draw(kind, name, registry.configure(kind, name, name))
    except registry.RegistryError:
        for agent in registry.list_names("agents"):
            for settings in find_mappings(read_agent(agent)[1]):
                if (
                    settings.get("name") == name
                    and settings.keys() - {"name"} <= registry.resolve(kind, name).Options.model_fields.keys()
                ):
                    return pictures.draw(kind, name, registry.configure(kind, settings, f"{agent}.{name}"))
        if kind == "networks":  # `nir`
            return None
        raise


def find_mappings(value: object) -> Iterator[Mapping]:
    """Yield ``value`` if it is a mapping, and all mappings nested in its values."""
    if isinstance(value, Mapping):
        yield value
        for each in value.values():
            yield from find_mappings(each)


def format_docstring(text: str, names: Sequence[str] = ()) -> str:
    """Return a docstring as Markdown: double backticks become single ones, indented blocks become mathematics.

    ``names`` are those of options, which are symbols in equations.
    """
    blocks = re.split(r"(?m)((?:^    .*(?:\n|\Z))+)", text.strip("\n"))
    shown = []
    for i, block in enumerate(blocks):
        shown.append(equations.block(block, names) if i % 2 else block.replace("``", "`").strip())
    return "\n\n".join(block for block in shown if block)


def format_options(cls: type[Component]) -> str:
    """Return the table of a component's options and parts."""
    rows = ["| option | default | allowed | description |", "| --- | --- | --- | --- |"]
    for key, option in get_options(cls.Options).items():
        has_unit = option.unit not in ("", "1") and option.default not in (None, PydanticUndefined)
        unit = f" {option.unit}" if has_unit else ""
        rows.append(
            f"| `{key}` | {format_default(option.default)}{unit} | {format_allowed(option)} | {escape_cell(option.description)} |"
        )
    for key, (kind, default) in cls.parts.items():
        rows.append(f"| `{key}` | {format_default(default)} | any of [{kind}]({kind}.md) | component |")
    return "\n".join(rows) if len(rows) > 2 else "It has no options."


def format_default(value: object) -> str:
    """Return a default as it is written in YAML."""
    if value is PydanticUndefined:
        return "required"
    if value in (None, "", [], ()):
        return "none"
    if isinstance(value, Mapping):
        return f"`{{{', '.join(f'{key}: {each}' for key, each in value.items())}}}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def format_allowed(option: OptionInfo) -> str:
    """Return the allowed values of an option in words."""
    return ", ".join(f"`{choice}`" for choice in option.choices) or option.allowed_text


def escape_cell(text: str) -> str:
    """Return ``text`` for a cell of a table, without HTML and bars."""
    return html.escape(text, quote=False).replace("|", "&#124;")


def format_source_link(file: str | None) -> str:
    """Return the link to the API page of a module's ``file``."""
    module = Path(file or "").relative_to(registry.PACKAGE.parent).with_suffix("").as_posix()
    return f'<p class="source">Source: <a href="../api/{module}.html"><code>{module}.py</code></a></p>'


def write_file_sections(kind: str) -> Iterator[str]:
    """Yield a section with summary and text for each YAML file of a kind."""
    for name in registry.list_names(kind):
        text = (registry.find_data_folder(kind) / f"{name}.yaml").read_text(encoding="utf-8")
        summary = str(yaml.safe_load(text).get("summary", ""))
        yield f'## `{name}` {{ #{name} }}\n\n{summary}\n\n```yaml title="{kind}/{name}.yaml"\n{text.rstrip()}\n```'

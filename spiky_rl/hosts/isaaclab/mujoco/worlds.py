"""Worlds that live in MuJoCo-Warp's arrays and are stepped by MuJoCo's C library on threads."""

from __future__ import annotations

import copy
import ctypes
import importlib
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files as resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spiky_rl.kernels import compiler
from spiky_rl.kernels.compiler import CompileError

if TYPE_CHECKING:
    import warp as wp
    from mujoco._structs import MjModel  # where it is made: in mujoco itself no checker sees it
    from mujoco_warp import Data

mujoco: Any = importlib.import_module("mujoco")
log = logging.getLogger(__name__)

LOADED = (
    *("qpos", "qvel", "act", "ctrl", "qfrc_applied", "xfrc_applied", "qacc_warmstart"),
    *("mocap_pos", "mocap_quat", "eq_active"),
)
"""What a step reads, by its name in both libraries."""
OUTCOMES = ("qacc", "qfrc_actuator", "xpos", "xquat")
"""What the forward dynamics find, and Newton or a sensor reads."""
WRENCHES = ("cacc", "cvel", "cfrc_int", "xipos", "subtree_com")
"""What it finds where the forces between bodies are asked for."""
STATES = ("qpos", "qvel", "act", "qacc_warmstart")
"""What a step changes."""
CONTACTS = {
    "position": "pos",
    "frame": "frame",
    "friction": "friction",
    "distance": "dist",
    "margin": "includemargin",
    "reference": "solref",
    "friction_reference": "solreffriction",
    "impedance": "solimp",
    "dimension": "dim",
    "geoms": "geom",
    "address": "efc_address",
    "world": "worldid",
}
"""Our name of a contact's quantity -> MuJoCo-Warp's."""

SOURCES = ("as_warp.h", "newton.h", "pairs.h", "worlds.h")

type Array = "wp.array | np.ndarray"
type Group = tuple[Mapping[str, Array], Sequence[object]]
"""Arrays of all worlds by name, and who holds that name in each thread."""
INTEGER, POINTER = ctypes.c_int, ctypes.c_void_p


class FieldStruct(ctypes.Structure):
    """`worlds.h`'s struct of the same name, as the others here."""

    _fields_ = [("worlds", POINTER), ("threads", POINTER), ("size", INTEGER), ("is_number", INTEGER)]


class ContactsStruct(ctypes.Structure):
    """Contacts of all worlds."""

    _fields_ = [
        *((name, INTEGER) for name in ("capacity", "addresses", "rows")),
        *((name, POINTER) for name in ("count", *CONTACTS, "force")),
    ]


class BatchStruct(ctypes.Structure):
    """All that a step needs."""

    _fields_ = [
        *(
            (name, INTEGER)
            for name in (
                "worlds",
                "threads",
                "substeps",
                "wrenches",
                "report",
                "given",
                "searches",
                "disabled",
            )
        ),
        *((name, POINTER) for name in ("models", "datas", "mean_inertia")),
        *((name, INTEGER) for name in ("loads", "outcomes", "states")),
        *((name, POINTER) for name in ("load", "outcome", "state", "iterations", "constraints")),
        ("contacts", ContactsStruct),
        *((name, POINTER) for name in ("order", "first", "warnings", "newton")),
        *((name, INTEGER) for name in ("lost", "rows", "found", "failed")),
        ("message", ctypes.c_char * 512),
        ("pairs", POINTER),
    ]


@cache
def load_library() -> ctypes.CDLL:
    """The compiled `worlds.h`, linked with the installed MuJoCo. Raises CompileError."""
    folder = Path(mujoco.__file__).parent
    shared = sorted(folder.glob("libmujoco.so.*"))
    if not shared or not (folder / "include").is_dir():
        raise CompileError(f"the mujoco package in {folder} comes without its library or headers")
    flags = (
        f"-I{folder / 'include'}",
        str(shared[-1]),
        f"-Wl,-rpath,{folder}",
        f"-DMUJOCO={mujoco.__version__}",
    )
    folder_of_ours = resources(__package__)
    text = "".join(folder_of_ours.joinpath(name).read_text(encoding="utf-8") for name in SOURCES)
    found = compiler.compile_library(text, "native MuJoCo", flags)
    if found.mujoco_version() != mujoco.mj_version() or found.batch_size() != ctypes.sizeof(BatchStruct):
        raise CompileError(f"MuJoCo {mujoco.__version__}: its headers do not fit its library")
    return found


def get_unavailable_reason() -> str | None:
    """Reason why worlds cannot be stepped natively, with the remedy; None if they can."""
    try:
        load_library()
    except CompileError as error:
        return str(error)
    return None


class Worlds:
    """MuJoCo's models and data, one of each per thread, and the worlds that they step."""

    def __init__(self, model: MjModel, data: Data, threads: int | None = None) -> None:
        """Copy what each thread needs.

        Args:
            model: Each thread gets a copy.
            data: On the CPU; its arrays are read and written in place.
            threads: Their number; None: as many as torch has.
        """
        self.library, self.data = load_library(), data
        self.count, self.threads = data.nworld, threads or torch.get_num_threads()
        if self.threads > 1 and not self.library.has_threads():
            log.warning("physics: the C++ compiler has no OpenMP, so the worlds are stepped on one thread")
            self.threads = 1
        self.models = [copy.copy(model) for _ in range(self.threads)]
        self.datas = [mujoco.MjData(model) for model in self.models]
        self.kept: dict[str, ctypes.Array | np.ndarray] = {}
        """What the struct points to."""
        self.told: set[str] = set()
        self.batch = batch = BatchStruct(worlds=self.count, threads=self.threads, substeps=1)
        for name, items in (("models", self.models), ("datas", self.datas)):
            self.set_memory(
                batch, name, (POINTER * self.threads)(*(item._address for item in items))
            )  # pylint: disable=protected-access
        for name, source in (("iterations", "solver_niter"), ("constraints", "nefc")):
            self.set_pointer(batch, name, getattr(data, source))
        contact = data.contact
        contacts = batch.contacts
        contacts.capacity, contacts.addresses = contact.efc_address.shape
        contacts.rows = data.efc.force.shape[1]
        self.set_pointer(contacts, "count", data.nacon)
        self.set_pointer(contacts, "force", data.efc.force)
        for name, source in CONTACTS.items():
            self.set_pointer(contacts, name, getattr(contact, source))
        sizes = {
            "order": max(1, contacts.capacity),
            "first": self.count + 1,
            "warnings": int(mujoco.mjtWarning.mjNWARNING),
        }
        for name, size in sizes.items():
            self.set_memory(batch, name, (INTEGER * size)())
        self.set_fields("state", [({name: getattr(data, name) for name in STATES}, self.datas)])
        self.configure_step(wrenches=False, report=False, given_contacts=False)

    def configure_step(self, *, wrenches: bool, report: bool, given_contacts: bool) -> None:
        """Say what a step finds besides the state.

        Args:
            wrenches: Whether forces between bodies are wanted.
            report: Whether contacts are.
            given: Whether contacts are given instead.
        """
        batch, now = self.batch, (int(wrenches), int(report), int(given_contacts))
        if "outcome" in self.kept and now == (batch.wrenches, batch.report, batch.given):
            return
        batch.wrenches, batch.report, batch.given = now
        names = OUTCOMES + WRENCHES * wrenches
        self.set_fields("outcome", [({name: getattr(self.data, name) for name in names}, self.datas)])

    def set_inputs(self, differing: Sequence[Group], mean_inertia: np.ndarray) -> None:
        """Set what the step of each world reads: its state and inputs, and what of the model differs between worlds.

        Args:
            differing: Arrays [world, ...] by name, and who holds that name in each thread.
            mean_inertia: [world].
        """
        inputs = {name: getattr(self.data, name) for name in LOADED}
        self.set_fields("load", [(inputs, self.datas), *differing])
        self.set_pointer(self.batch, "mean_inertia", mean_inertia)

    def set_fields(self, name: str, groups: Sequence[Group]) -> None:
        """Fill the table ``name``: arrays of all worlds, and the memory of each thread that they go to or come from, by ``groups``."""
        rows = []
        for arrays, holders in groups:
            for key, array in arrays.items():
                view, places = self.view(f"{name}.{key}", array), [
                    get_address(holder, key) for holder in holders
                ]
                if view.size:
                    self.set_memory(
                        None, f"{name}.{key} of threads", threads := (POINTER * len(places))(*places)
                    )
                    size, number = view.size // self.count, view.dtype == np.float32
                    rows.append((view.ctypes.data, ctypes.addressof(threads), size, int(number)))
        self.set_memory(self.batch, name, (FieldStruct * len(rows))(*rows))
        setattr(self.batch, f"{name}s", len(rows))

    def view(self, name: str, array: Array) -> np.ndarray:
        """An ``array``, kept by this ``name``, as NumPy sees it, without a copy."""
        view = array if isinstance(array, np.ndarray) else array.numpy()
        if view.size and not view.flags.c_contiguous:
            raise ValueError(f"{name}: not contiguous")
        self.kept[f"{name} view"] = view
        return view

    def set_pointer(self, struct: ctypes.Structure, name: str, array: Array) -> None:
        view = self.view(name, array)
        setattr(struct, name, view.ctypes.data if view.size else None)

    def set_memory(self, struct: ctypes.Structure | None, name: str, memory: ctypes.Array) -> None:
        self.kept[name] = memory
        if struct is not None:
            setattr(struct, name, ctypes.addressof(memory))

    def step(self, newton: ctypes.Structure | None = None, substeps: int = 1) -> None:
        """Step every world. One whose step MuJoCo breaks off is no number until it is reset.

        Args:
            newton: Where Newton's inputs and state lie, which each step begins with and leaves; None: MuJoCo-Warp's alone are stepped.
            substeps: How often. What steps find besides the state is the last one's.
        """
        self.batch.newton = None if newton is None else ctypes.addressof(newton)
        self.batch.substeps = substeps
        self.library.batch_step(ctypes.byref(self.batch))
        if self.batch.failed >= 0:
            message = self.batch.message.decode(errors="replace")
            self.log_once(message, "MuJoCo broke off the step of world %d: %s", self.batch.failed, message)
        if self.batch.lost:
            self.log_once("lost", "MuJoCo's own memory has no place for %d contacts", self.batch.lost)
        self.tell_overflow("njmax", self.batch.rows, self.data.njmax, "constraint rows")
        per_world, room = -(-self.batch.found // self.count), self.batch.contacts.capacity // self.count
        self.tell_overflow("nconmax", per_world, room, "contacts on average")
        warnings = self.kept["warnings"]
        for kind, number in enumerate(warnings):
            if number:
                self.log_once(str(kind), "MuJoCo warns: %s", mujoco.mjtWarning(kind).name)

    def tell_overflow(self, option: str, needed: int, room: int, what: str) -> None:
        """Warn once where MuJoCo-Warp's arrays are too small, though MuJoCo's own grow.

        Args:
            option: The solver's option that makes ``room``.
            needed: How many there are in one world.
            room: For how many there is room.
            what: They are.
        """
        if needed > room:
            path = f"env.sim.physics.solver_cfg.{option}"
            self.log_once(
                option,
                "physics: %s=%d is too small: a world has %d %s; sensors miss the others, and MuJoCo-Warp would leave them out;"
                " %s=%d is enough so far",
                *(path, room, needed, what, path, needed),
            )

    def log_once(self, what: str, message: str, *values: object) -> None:
        """Log a ``message`` with its ``values``, once in the life of these worlds for each ``what``."""
        if what not in self.told:
            self.told.add(what)
            log.warning(message, *values)


def get_address(holder: object, name: str) -> int:
    """Where ``holder``, a model, its options, or data, has the array ``name``."""
    return getattr(holder, name).ctypes.data

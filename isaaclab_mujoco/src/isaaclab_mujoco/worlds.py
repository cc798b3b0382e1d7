"""Worlds whose state is in MuJoCo-Warp's arrays and which MuJoCo's C library steps on threads."""

from __future__ import annotations

import copy
import ctypes
import importlib
import logging
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files as resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from isaaclab_mujoco import compiler
from isaaclab_mujoco.errors import CompileError

if TYPE_CHECKING:
    import warp as wp

    # type checkers do not see the class in mujoco itself
    from mujoco._structs import MjModel
    from mujoco_warp import Data

mujoco: Any = importlib.import_module("mujoco")
log = logging.getLogger(__name__)

INPUTS = (
    "qpos",
    "qvel",
    "act",
    "ctrl",
    "qfrc_applied",
    "xfrc_applied",
    "qacc_warmstart",
    "mocap_pos",
    "mocap_quat",
    "eq_active",
)
"""Arrays that a step reads, by their names in both libraries."""
OUTCOMES = ("qacc", "qfrc_actuator", "xpos", "xquat")
"""Results of the forward dynamics that Newton or a sensor reads; every step stores them."""
WRENCHES = ("cacc", "cvel", "cfrc_int", "xipos", "subtree_com")
"""Results that a step stores too if the forces between bodies are requested."""
STATES = ("qpos", "qvel", "act", "qacc_warmstart")
"""Arrays that a step changes."""
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
"""Name of a contact's quantity in MuJoCo-Warp by its name in `worlds.h`."""

SOURCES = ("as_warp.h", "newton.h", "pairs.h", "worlds.h")
"""Headers of the library, in the order in which they are joined to one text."""

type Array = "wp.array | np.ndarray"
type Group = tuple[Mapping[str, Array], Sequence[object]]
"""Arrays of all worlds by name, and one holder per thread: a MuJoCo model, its options or data, with the same arrays for one world."""
INTEGER, POINTER = ctypes.c_int, ctypes.c_void_p


class FieldStruct(ctypes.Structure):
    """The struct Field of `worlds.h`."""

    _fields_ = [("worlds", POINTER), ("threads", POINTER), ("size", INTEGER), ("is_number", INTEGER)]


class ContactsStruct(ctypes.Structure):
    """The struct Contacts of `worlds.h`."""

    _fields_ = [
        ("capacity", INTEGER),
        ("addresses", INTEGER),
        ("rows", INTEGER),
        ("count", POINTER),
        *[(name, POINTER) for name in CONTACTS],
        ("force", POINTER),
    ]


class BatchStruct(ctypes.Structure):
    """The struct Batch of `worlds.h`, which explains the fields: everything that a step needs."""

    _fields_ = [
        ("worlds", INTEGER),
        ("threads", INTEGER),
        ("substeps", INTEGER),
        ("wrenches", INTEGER),
        ("report", INTEGER),
        ("given", INTEGER),
        ("searches", INTEGER),
        ("disabled", INTEGER),
        ("models", POINTER),
        ("datas", POINTER),
        ("mean_inertia", POINTER),
        ("loads", INTEGER),
        ("outcomes", INTEGER),
        ("states", INTEGER),
        ("load", POINTER),
        ("outcome", POINTER),
        ("state", POINTER),
        ("iterations", POINTER),
        ("constraints", POINTER),
        ("contacts", ContactsStruct),
        ("order", POINTER),
        ("first", POINTER),
        ("warnings", POINTER),
        ("newton", POINTER),
        ("lost", INTEGER),
        ("rows", INTEGER),
        ("found", INTEGER),
        ("failed", INTEGER),
        ("message", ctypes.c_char * 512),
        ("pairs", POINTER),
    ]


@cache
def load_library() -> ctypes.CDLL:
    """Return the compiled `worlds.h`, linked with the installed MuJoCo. Raises CompileError."""
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
    headers = resources(__package__)
    text = "".join(headers.joinpath(name).read_text(encoding="utf-8") for name in SOURCES)
    library = compiler.compile_library(text, "native MuJoCo", flags)
    if library.mujoco_version() != mujoco.mj_version() or library.batch_size() != ctypes.sizeof(BatchStruct):
        raise CompileError(f"MuJoCo {mujoco.__version__}: its headers do not fit its library")
    return library


def get_unavailable_reason() -> str | None:
    """Return the reason why native MuJoCo is not available, with a remedy; None if it is."""
    try:
        load_library()
    except CompileError as error:
        return str(error)
    return None


class Worlds:
    """All worlds of a simulation, and one MuJoCo model and data for each thread that steps them.

    MuJoCo-Warp's arrays hold all worlds. A thread loads a world from them into its own data, steps it, and stores the results.
    """

    def __init__(self, model: MjModel, data: Data, threads: int | None = None) -> None:
        """Give every thread a copy of ``model``.

        Args:
            data: MuJoCo-Warp's arrays on the CPU; a step reads and writes them in place.
            threads: Number of threads; None for torch's number.
        """
        self.library, self.data = load_library(), data
        self.count, self.threads = data.nworld, threads or torch.get_num_threads()
        if self.threads > 1 and not self.library.has_threads():
            log.warning("physics: the C++ compiler has no OpenMP, so the worlds are stepped on one thread")
            self.threads = 1
        self.models = [copy.copy(model) for _ in range(self.threads)]
        self.datas = [mujoco.MjData(model) for model in self.models]
        self.memory: dict[str, ctypes.Array | np.ndarray] = {}
        """Memory that ``batch`` points to, by name; the references keep it alive."""
        self.logged: set[str] = set()
        """Keys of the warnings that have been logged."""
        self.batch = batch = BatchStruct(worlds=self.count, threads=self.threads, substeps=1)
        for name, items in (("models", self.models), ("datas", self.datas)):
            addresses = [item._address for item in items]  # pylint: disable=protected-access
            self.set_memory(batch, name, (POINTER * self.threads)(*addresses))
        self.set_pointer(batch, "iterations", data.solver_niter)
        self.set_pointer(batch, "constraints", data.nefc)
        self._connect_contacts(batch.contacts)
        sizes = {
            "order": max(1, batch.contacts.capacity),
            "first": self.count + 1,
            "warnings": int(mujoco.mjtWarning.mjNWARNING),
        }
        for name, size in sizes.items():
            self.set_memory(batch, name, (INTEGER * size)())
        self.set_fields("state", [({name: getattr(data, name) for name in STATES}, self.datas)])
        self.configure_step(wrenches=False, report=False, given_contacts=False)

    def _connect_contacts(self, contacts: ContactsStruct) -> None:
        """Point ``contacts`` to MuJoCo-Warp's arrays of contacts and of their forces."""
        contacts.capacity, contacts.addresses = self.data.contact.efc_address.shape
        contacts.rows = self.data.efc.force.shape[1]
        self.set_pointer(contacts, "count", self.data.nacon)
        self.set_pointer(contacts, "force", self.data.efc.force)
        for name, source in CONTACTS.items():
            self.set_pointer(contacts, name, getattr(self.data.contact, source))

    def configure_step(self, *, wrenches: bool, report: bool, given_contacts: bool) -> None:
        """Choose the results of a step besides the state.

        Args:
            wrenches: Whether it computes the forces between bodies.
            report: Whether it writes contacts and their forces to MuJoCo-Warp's arrays.
            given_contacts: Whether MuJoCo-Warp's arrays hold the contacts, so that MuJoCo finds none itself.
        """
        batch, choice = self.batch, (int(wrenches), int(report), int(given_contacts))
        if "outcome" in self.memory and choice == (batch.wrenches, batch.report, batch.given):
            return
        batch.wrenches, batch.report, batch.given = choice
        names = OUTCOMES + WRENCHES if wrenches else OUTCOMES
        self.set_fields("outcome", [({name: getattr(self.data, name) for name in names}, self.datas)])

    def set_inputs(self, differing: Sequence[Group], mean_inertia: np.ndarray) -> None:
        """Set the inputs of a step: state, controls, forces, and the values of the model that differ between worlds.

        Args:
            differing: The values of the model that differ between worlds, [world, ...] by name.
            mean_inertia: MuJoCo's ``meaninertia``, [world].
        """
        inputs = {name: getattr(self.data, name) for name in INPUTS}
        self.set_fields("load", [(inputs, self.datas), *differing])
        self.set_pointer(self.batch, "mean_inertia", mean_inertia)

    def set_fields(self, name: str, groups: Sequence[Group]) -> None:
        """Fill the table ``name`` of `batch`: one row per array of ``groups``, with a `FieldStruct` for copies between worlds and threads.

        A row has the address of the array of all worlds, and the addresses of the arrays of one world in every thread's holder.
        """
        rows = []
        for arrays, holders in groups:
            for key, array in arrays.items():
                view = self.get_view(f"{name}.{key}", array)
                if not view.size:
                    continue
                addresses = [getattr(holder, key).ctypes.data for holder in holders]
                threads = (POINTER * len(holders))(*addresses)
                self.set_memory(None, f"{name}.{key} of threads", threads)
                # floats become doubles in a thread; all other arrays hold bytes, which are copied
                size, is_number = view.size // self.count, view.dtype == np.float32
                rows.append((view.ctypes.data, ctypes.addressof(threads), size, int(is_number)))
        self.set_memory(self.batch, name, (FieldStruct * len(rows))(*rows))
        setattr(self.batch, f"{name}s", len(rows))  # load and loads, outcome and outcomes, state and states

    def get_view(self, name: str, array: Array) -> np.ndarray:
        """Return ``array`` as NumPy sees it, without a copy, and keep it alive under ``name``."""
        view = array if isinstance(array, np.ndarray) else array.numpy()
        if view.size and not view.flags.c_contiguous:
            raise ValueError(f"{name}: not contiguous")
        self.memory[f"{name} view"] = view
        return view

    def set_pointer(self, struct: ctypes.Structure, name: str, array: Array) -> None:
        """Make the field ``name`` of ``struct`` point to ``array``; a null pointer if it is empty."""
        view = self.get_view(name, array)
        setattr(struct, name, view.ctypes.data if view.size else None)

    def set_memory(self, struct: ctypes.Structure | None, name: str, memory: ctypes.Array) -> None:
        """Keep ``memory`` alive under ``name``, and make the field of that name in ``struct`` point to it."""
        self.memory[name] = memory
        if struct is not None:
            setattr(struct, name, ctypes.addressof(memory))

    def step(self, newton: ctypes.Structure | None = None, substeps: int = 1) -> None:
        """Step every world ``substeps`` times; results besides the state are from the last step.

        A world whose step MuJoCo aborts has non-finite values until it is reset.

        Args:
            newton: Addresses of Newton's inputs and state, which each step reads and writes; None to step MuJoCo-Warp's arrays alone.
        """
        self.batch.newton = None if newton is None else ctypes.addressof(newton)
        self.batch.substeps = substeps
        self.library.batch_step(ctypes.byref(self.batch))
        if self.batch.failed >= 0:
            message = self.batch.message.decode(errors="replace")
            self.log_once(message, "MuJoCo broke off the step of world %d: %s", self.batch.failed, message)
        if self.batch.lost:
            self.log_once("lost", "MuJoCo's own memory has no place for %d contacts", self.batch.lost)
        self.warn_overflow("njmax", self.batch.rows, self.data.njmax, "constraint rows")
        contacts_per_world = math.ceil(self.batch.found / self.count)
        capacity = self.batch.contacts.capacity // self.count
        self.warn_overflow("nconmax", contacts_per_world, capacity, "contacts on average")
        for kind, number in enumerate(self.memory["warnings"]):
            if number:
                self.log_once(str(kind), "MuJoCo warns: %s", mujoco.mjtWarning(kind).name)

    def warn_overflow(self, option: str, needed: int, capacity: int, noun: str) -> None:
        """Warn once if a world needs more than the ``capacity`` of MuJoCo-Warp's arrays; MuJoCo's own arrays grow.

        Args:
            option: Option of the solver that sets the capacity.
            needed: Number in one world.
            capacity: Capacity for one world.
            noun: Plural of the counted thing.
        """
        if needed > capacity:
            path = f"env.sim.physics.solver_cfg.{option}"
            self.log_once(
                option,
                "physics: %s=%d is too small: a world has %d %s; sensors miss the others, and MuJoCo-Warp would leave them out;"
                " %s=%d is enough so far",
                path, capacity, needed, noun, path, needed,
            )  # fmt: skip

    def log_once(self, key: str, message: str, *values: object) -> None:
        """Log a ``message`` with its ``values``, once per ``key`` in the life of these worlds."""
        if key not in self.logged:
            self.logged.add(key)
            log.warning(message, *values)

"""A CUDA device that is not there: torch's fake tensors on "cuda", with an error for whatever would wait for the device.

Shapes, types and devices are torch's own fake ones, and a mix of devices raises there. What `Pretence` adds: it raises `HostSync`
for whatever makes the host wait (a number or a truth of a tensor, a copy between host and device, a size that depends on data),
unless the function that asks is listed in `tests.hosts.syncs`, and counts what is listed. Integers, truths and all that lies on
the host carry their values along, so that a library that may ask for them gets true answers; what is not known is 0.

The CuPy backend runs as it is, on a CuPy that launches nothing and checks every launch.
"""

import contextlib
import math
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map_only

from spiky_rl.config import registry
from spiky_rl.kernels import dispatch
from tests.hosts import syncs
from tests.kernels import fake_cupy

DEVICE = "cuda:0"
CUDA, META = torch.device(DEVICE), torch.device("meta")
COMPOSITE = "CompositeImplicitAutograd"
VALUE = "_value_on_the_host"
PACKAGES = ("spiky_rl", "rsl_rl", "skrl", "tests")
"""Whose functions are asked about: the innermost of theirs on the stack."""
aten, prim = torch.ops.aten, torch.ops.prim
TWICE = {
    "spiky_backward": ("current", "scratch"),
    "spiky_layer_backward": ("current", "scratch"),
    "spiky_recurrent_backward": ("current", "path", "grad_drive", "arrived", "of_output"),
}
"""What an adjoint over time writes and reads back, or reads in both directions."""
MEMORY = 80 * 10**9
"""Bytes that the device has: an H100's."""
EXACT = (torch.bool, torch.uint8, torch.int32, torch.int64)


class HostSync(AssertionError):
    """The host would wait for the device."""


def running() -> list[tuple[str, int]]:
    """The functions of packages of ours or a host's that are running, innermost first: ``module:name`` and line."""
    found, frame = [], sys._getframe(2)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] in PACKAGES and module != __name__:
            found.append((f"{module}:{frame.f_code.co_qualname}", frame.f_lineno))
        frame = frame.f_back
    return found


def of_cuda(x) -> bool:
    return isinstance(x, FakeTensor) and x.fake_device.type == "cuda"


def has_value(x) -> bool:
    """Whether a tensor is of a kind that carries its values along."""
    return isinstance(x, FakeTensor) and (x.dtype in EXACT or x.fake_device.type == "cpu")


class Pretence(TorchDispatchMode):
    """Runs operations on fake CUDA tensors and raises where one would wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.met: Counter[str] = Counter()
        self.operations: Counter[str] = Counter()
        self.traffic: Counter[str] = Counter()
        """Bytes that operations and kernels read and write, each tensor once."""
        self.is_setting_up = False

    @contextlib.contextmanager
    def setting_up(self):
        """What happens once, before a rollout, may wait."""
        self.is_setting_up = True
        yield
        self.is_setting_up = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is prim.device.default:
            # C++ takes such a tensor for one without data: torch's autograd would look for the streams of a device
            return META if of_cuda(args[0]) else args[0].fake_device
        if kwargs.get("device") == META:
            kwargs["device"] = CUDA
        if func.namespace == "spiky_rl":
            return self.own(func, args, kwargs)
        if not is_free(func):
            self.operations[str(func)] += 1
        if func not in ASKED and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), COMPOSITE):
            with self:  # in inference mode torch has not yet said what it consists of
                found = func.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
        reason = waits(func, args, kwargs)
        if reason:
            self.ask(reason)
            return self.answer(func, args, kwargs)
        try:
            found = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            if any(map(of_cuda, tree_flatten((args, kwargs))[0])):
                self.ask(f"{func} depends on data")
            return self.answer(func, args, kwargs)
        if (finite := of_finite(func, args)) is not None:
            with unset_fake_temporarily():
                self.remember(found, torch.full(found.shape, finite))
        else:
            self.carry(func, args, kwargs, found)
        if not is_free(func):
            self.traffic[str(func)] += count_bytes(func, args, found)
        return found

    def own(self, func, args, kwargs):
        """An operator of ours: the implementation for CUDA, as it is, beside what it says of itself to compilers."""
        devices = {x.fake_device for x in tree_flatten((args, kwargs))[0] if isinstance(x, FakeTensor)}
        if len(devices) > 1:
            raise RuntimeError(f"{func} gets tensors of {' and '.join(map(str, sorted(devices, key=str)))}")
        said = func(*args, **kwargs)
        if devices != {CUDA}:
            return said
        with self:
            found = func._op_dk(torch._C.DispatchKey.CUDA, *args, **kwargs)
        given, told = ([(*x.shape, x.dtype, x.device) for x in tree_flatten(y)[0]] for y in (found, said))
        assert given == told, f"{func} gives {given} and says {told}"
        return found

    def ask(self, reason: str) -> None:
        """Raise `HostSync` unless who asks is listed."""
        if self.is_setting_up:
            return
        (name, line), *callers = running() or [("nowhere", 0)]
        outside = {caller for caller, _ in callers}
        listed = name in syncs.HOSTS or name in syncs.TESTS
        if name in syncs.OURS:
            listed = syncs.BETWEEN in outside or outside.isdisjoint(syncs.BUSY)
        if not listed:
            raise HostSync(f"{name}, line {line}: {reason}")
        self.met[name] += 1

    def known(self, x):
        """The value of a tensor, or None."""
        return getattr(x, VALUE, None) if isinstance(x, FakeTensor) else None

    def remember(self, x, value) -> None:
        if has_value(x) and isinstance(value, torch.Tensor):
            setattr(x, VALUE, value)

    def answer(self, func, args, kwargs):
        """What a listed function gets."""
        x, value = args[0], self.known(args[0])
        if func in ASKED:
            with unset_fake_temporarily():
                return torch.zeros((), dtype=x.dtype).item() if value is None else value.item()
        if func is aten.index.Tensor:
            return self.indexed(x, args[1])
        if func is aten.nonzero.default and value is not None:
            with unset_fake_temporarily():
                places = value.nonzero()
            found = torch.empty(places.shape, dtype=torch.int64, device=x.device)
            self.remember(found, places)
            return found
        if func in (
            aten._to_copy.default,
            aten.copy_.default,
            aten.index_put_.default,
            aten.index_put.default,
        ):
            found = func(*args, **kwargs)
            self.carry(func, args, kwargs, found)
            if self.known(found) is None:
                with unset_fake_temporarily():
                    self.remember(found, torch.zeros(found.shape, dtype=found.dtype))
            return found
        raise AssertionError(f"{func}: what it would give is not known")

    def indexed(self, x, indices):
        """``x[mask]`` or ``x[indices of the host]``."""
        masks = [i for i in indices if i is not None and i.dtype in (torch.bool, torch.uint8)]
        if not masks:
            return aten.index.Tensor(x, [i if i is None else i.to(x.device) for i in indices])
        (mask,), value = masks, self.known(masks[0])
        assert value is not None and indices[0] is mask, "how many a mask lets through is not known"
        with unset_fake_temporarily():
            count = int(value.sum())
        found = x.new_empty(count, *x.shape[mask.ndim :])
        if (numbers := self.known(x)) is not None:
            with unset_fake_temporarily():
                numbers = numbers[value.bool()]
            self.remember(found, numbers)
        return found

    def carry(self, func, args, kwargs, found) -> None:
        """Compute integers and truths for real where all that they depend on is known."""
        results = tree_flatten(found)[0]
        if func is aten.zeros.default:  # what is made of them, such as truths, is known too
            with unset_fake_temporarily():
                setattr(found, VALUE, torch.zeros(found.shape, dtype=found.dtype))
        if not any(map(has_value, results)):
            return
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        if any(isinstance(x, FakeTensor) and self.known(x) is None for x in tensors):
            for x in results:
                if isinstance(x, FakeTensor) and func._schema.is_mutable:
                    setattr(x, VALUE, None)
            return
        given = {"device": torch.device("cpu")} if "device" in kwargs else {}

        def real(x):
            known = self.known(x)
            return x if known is None and not isinstance(x, FakeTensor) else known

        with unset_fake_temporarily():
            args, kwargs = tree_map_only(torch.Tensor, real, (args, {**kwargs, **given}))
            values = tree_flatten(func(*args, **kwargs))[0]
        for x, value in zip(results, values, strict=True):
            self.remember(x, value)


ASKED = (aten._local_scalar_dense.default, aten.is_nonzero.default)


def of_finite(func, args) -> bool | None:
    """What an operation says of numbers if they are numbers, all of them finite; None: something else is asked."""
    if func in (aten.isnan.default, aten.isinf.default):
        return False
    same = len(args) > 1 and args[0] is args[1]
    if func is aten.ne.Tensor and same:
        return False
    infinite = func is aten.ne.Scalar and args[1] == float("inf")
    return True if func is aten.isfinite.default or infinite or (func is aten.eq.Tensor and same) else None


def waits(func, args, kwargs) -> str | None:
    """Why an operation makes the host wait; None: it does not."""
    if func in ASKED and of_cuda(args[0]):
        return "a tensor's number is asked for"
    if func is aten._to_copy.default and not kwargs.get("non_blocking"):
        target = torch.device(kwargs.get("device") or args[0].fake_device).type
        if isinstance(args[0], FakeTensor) and target != args[0].fake_device.type:
            return f"a tensor is copied to {target}"
    if func is aten.copy_.default and not (args[2] if len(args) > 2 else kwargs.get("non_blocking")):
        if len({x.fake_device.type for x in args[:2]}) > 1:
            return f"a tensor is copied to {args[0].fake_device.type}"
    if func in (
        aten.index.Tensor,
        aten.index_put_.default,
        aten.index_put.default,
        aten._index_put_impl_.default,
    ):
        if not of_cuda(args[0]):
            return None
        for index in args[1]:
            if index is None:
                continue
            if not of_cuda(index):
                return "an index of the host is copied to cuda"
            one = func is not aten.index.Tensor and args[2].numel() == 1 and len(args[1]) == 1
            if index.dtype in (torch.bool, torch.uint8) and not one:
                return "how many a mask lets through is asked for"
    return None


def is_free(func) -> bool:
    """Whether an operation launches nothing itself: it looks at memory in another way, asks for some, or is made of others."""
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
        return True
    views = any(out.alias_info is not None and not out.alias_info.is_write for out in func._schema.returns)
    return views or "empty" in func.__name__ or func.__name__.startswith(("detach", "_unsafe_view"))


def count_bytes(func, args, found) -> int:
    """Bytes that an operation reads and writes."""
    filled = func in (aten.zeros.default, aten.ones.default, aten.zeros_like.default, aten.ones_like.default)
    tensors = tree_flatten((() if filled else args, found))[0]
    sizes = {id(x): nbytes(x) for x in tensors if isinstance(x, torch.Tensor)}
    return sum(sizes.values())


def nbytes(x: torch.Tensor) -> int:
    """Bytes in memory of a tensor, of which an expanded one has fewer than it has numbers."""
    return math.prod(n for n, stride in zip(x.shape, x.stride(), strict=True) if stride) * x.element_size()


def is_pretended() -> bool:
    """Whether tensors that are made now are pretended ones."""
    return isinstance(torch.empty(()), FakeTensor)


def converted(module: torch.nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.nn.Module:
    """A module with other tensors in the places of its own: torch's own way swaps them, which fake ones do not allow."""
    for part in module.children():
        part._apply(change)
    for name, weight in list(module._parameters.items()):
        if weight is not None:
            with torch.no_grad():
                new = change(weight)
            module._parameters[name] = torch.nn.Parameter(new, requires_grad=weight.requires_grad)
    for name, buffer in list(module._buffers.items()):
        if buffer is not None:
            module._buffers[name] = change(buffer)
    return module


@dataclass(frozen=True)
class Pretended:
    """What `pretended` gives."""

    mode: FakeTensorMode
    pretence: Pretence
    cupy: fake_cupy.Cupy

    def fake(self, x: torch.Tensor) -> torch.Tensor:
        """A pretended tensor of the host's, as a real one is."""
        with _disable_current_modes():
            x = x.detach()
        return self.mode.from_tensor(x)


@contextlib.contextmanager
def pretended():
    """Everything inside finds a CUDA device, `DEVICE`. Networks are built by the host, for real, as they are before they are moved."""
    mode, pretence = FakeTensorMode(), Pretence()
    with fake_cupy.installed(executes=False) as cupy, pytest.MonkeyPatch.context() as patch:
        whole, build, configure = (
            Pretended(mode, pretence, cupy),
            registry.ComponentSpec.build,
            registry.configure,
        )

        def built(configured, **arguments):
            if not issubclass(configured.cls, torch.nn.Module) or not is_pretended():
                return build(configured, **arguments)
            with _disable_current_modes():
                module = build(configured, **arguments)
            return converted(module, whole.fake)

        def configured(*arguments):
            with _disable_current_modes():
                return configure(*arguments)

        def address(x):
            assert of_cuda(x), f"a kernel is given the address of a tensor of {x.fake_device}"
            sizes[id(x)] = nbytes(x)
            return id(x)

        def launched(name, pointers):
            for parameter, pointer in pointers.items():
                again = TWICE.get(name, ()) if pointers.get("scratch", 1) else ()
                passes = 2 if parameter in again else 1
                pretence.traffic[name] += passes * sizes.get(pointer, 0)

        sizes: dict[int, int] = {}
        cupy.on_launch, cupy.memory = launched, MEMORY

        def numbers(x):
            assert not of_cuda(x), "NumPy is given a tensor of the device"
            value = pretence.known(x)
            with _disable_current_modes():
                return (torch.zeros(x.shape, dtype=x.dtype) if value is None else value).numpy()

        def tensor(data, **options):
            # torch itself looks for a driver where it reads or makes numbers of a device like this
            if isinstance(data, list) and any(map(of_cuda, data)):
                pretence.ask("a tensor is made of the device's numbers")
                return torch.stack(data)
            device = options.pop("device", None)
            return make(data, **options) if device is None else make(data, **options).to(device)

        for kind in ("cuda", "cpu", "meta"):
            is_of = property(lambda x, kind=kind: x.fake_device.type == kind)
            patch.setattr(FakeTensor, f"is_{kind}", is_of, raising=False)
        # how cuDNN wants weights to lie in memory: it is called for that, and is not there
        patch.setattr(torch.nn.RNNBase, "flatten_parameters", lambda module: None)
        make = torch.tensor
        patch.setattr(torch, "tensor", tensor)
        patch.setattr(FakeTensor, "data_ptr", address, raising=False)
        patch.setattr(FakeTensor, "numpy", numbers, raising=False)
        patch.setattr(FakeTensor, "__format__", lambda x, how: format(x.item(), how), raising=False)
        # these fake tensors have an address
        patch.setattr(dispatch, "is_traced", torch.compiler.is_compiling)
        patch.setattr(registry, "configure", configured)
        patch.setattr(
            torch.nn.Module, "_apply", lambda module, change, recurse=True: converted(module, change)
        )

        patch.setattr(registry.ComponentSpec, "build", built)
        patch.setattr(torch.cuda, "synchronize", lambda *_: pretence.ask("the device is waited for"))
        event = {"record": lambda *_: None, "elapsed_time": lambda *_: 1.0}
        event["synchronize"] = lambda _: pretence.ask("an event is waited for")
        patch.setattr(torch.cuda, "Event", type("Event", (), {"__init__": lambda *_, **__: None, **event}))
        with torch.autograd.set_multithreading_enabled(False), mode, pretence:
            yield whole

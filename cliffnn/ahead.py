"""Kernels compiled before they are needed, side by side: a compiler spends most of its time outside Python's lock."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# How many kernels are compiled at a time; None: as the machine has processors, and a few more.
THREADS: int | None = None

_local = threading.local()


def warmup(model: Callable[..., Any], /, *inputs: Any, **kwargs: Any) -> None:
    """Generate and compile, in parallel, all that a model's forward and backward need.

    The model is called on the inputs, and its results are differentiated with respect to every leaf that requires
    gradients (not under `torch.no_grad`). On a GPU kernels are compiled in place of being launched, and operators give
    zeros; on a CPU, where code is only generated, they run. Parameters, buffers, gradients and random states are left
    as they are; lazy modules get their shapes, and initial values. Code is kept on disk: a later process only reads it.
    A model under `torch.compile` runs as it is: what torch's compiler makes itself is not made.

    Parameters
    ----------
    model : callable
        A module, or a function: one that calls `torch.autograd.grad` with ``create_graph=True``, as forces do, has its
        second derivatives compiled too. Not one that is wrapped for distributed training already.
    *inputs, **kwargs
        What it takes. A few rows are enough, since nothing depends on their number; channels, dtype, device, which
        inputs require gradients, and autocast must be those of the real calls.

    Raises
    ------
    TypeError
        If the model is not callable.

    Examples
    --------
    >>> import torch, cliffnn
    >>> from cliffnn.layers import SGPNormBlock
    >>> cliffnn.warmup(SGPNormBlock(16, "R3"), torch.randn(1, 8, 16))
    """
    if not callable(model):
        raise TypeError(f"model: got {type(model).__name__}, wanted a module or a function, and then its inputs")
    devices = {tensor.device for tensor in _tensors((inputs, kwargs)) if tensor.is_cuda}
    with (
        Compilations() as compilations,
        torch.random.fork_rng(devices),
        _kept_buffers(model),
        _uncompiled(),
        _Instead(compilations),
    ):
        results = [tensor for tensor in _tensors(model(*inputs, **kwargs)) if tensor.requires_grad]
        if results and torch.is_grad_enabled():
            cotangents = [torch.zeros_like(result) for result in results]
            torch.autograd.grad(results, list(_leaves(results)), cotangents, allow_unused=True)


class Compilations:
    """Kernels that are being compiled in threads; a context that ends when all are."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="cliffnn-compile")
        self._futures: dict[Hashable, Future] = {}

    def add(self, key: Hashable, compile: Callable[[], None]) -> None:
        if key not in self._futures:
            self._futures[key] = self._executor.submit(compile)

    @contextmanager
    def instead_of_launches(self) -> Iterator[None]:
        """Within, a kernel that this thread would launch is compiled, and nothing runs."""
        before, _local.compilations = current(), self
        try:
            yield
        finally:
            _local.compilations = before

    def __enter__(self) -> Compilations:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._executor.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for future in self._futures.values():
                future.result()


def current() -> Compilations | None:
    """To which this thread gives the kernels that it would launch."""
    return getattr(_local, "compilations", None)


@contextmanager
def compiled_together() -> Iterator[None]:
    """Within, kernels are compiled in place of being launched; at the end they are, or somebody else waits for them."""
    if current() is not None:
        yield
        return
    with Compilations() as compilations, compilations.instead_of_launches():
        yield


class _Instead(TorchDispatchMode):
    """Our operators compile their kernels, and give zeros. Unlike a thread's variable, autograd's threads see it."""

    def __init__(self, compilations: Compilations):
        super().__init__()
        self._compilations = compilations

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # `_uncompiled` keeps torch's compiler out of here; torch would import it for that, for a second or more
        return False

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator.namespace != "cliffnn":
            return operator(*args, **(kwargs or {}))
        with self._compilations.instead_of_launches():
            results = operator(*args, **(kwargs or {}))
        for result in _tensors(results):
            result.zero_()
        return results


@contextmanager
def _kept_buffers(model: Callable) -> Iterator[None]:
    """Running means and the like are as before afterwards."""
    kept: list[tuple[Tensor, Tensor]] = []
    hooks = []

    def keep(module: nn.Module, *_: object) -> None:
        kept.extend((buffer, buffer.clone()) for buffer in module.buffers(recurse=False))

    for module in model.modules() if isinstance(model, nn.Module) else ():
        if any(map(is_lazy, module.buffers(recurse=False))):
            # torch's own hook, which comes first, gives them their initial values
            hooks.append(module.register_forward_pre_hook(keep))
        else:
            keep(module)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        # what was kept first, last: a module may be called twice
        for buffer, before in reversed(kept):
            buffer.copy_(before)


def _uncompiled() -> AbstractContextManager:
    """What is under `torch.compile` runs as it is; nothing is, if the compiler has not been imported."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _leaves(results: Iterable[Tensor]) -> Iterator[Tensor]:
    """The tensors that a backward from the results accumulates gradients for."""
    nodes: list[Any] = [result.grad_fn for result in results if result.grad_fn is not None]
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        if hasattr(node, "variable"):
            yield node.variable
        following = {function for function, _ in node.next_functions if function is not None} - seen
        seen |= following
        nodes += following

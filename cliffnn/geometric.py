"""Functions of multivectors made into operators: traced once, registered as expressions, run fused."""

from __future__ import annotations

import functools
import hashlib
import linecache
import re
import string
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from torch import Tensor

from cliffnn.algebra import Algebra, AlgebraLike
from cliffnn.annotations import PATHS, annotated_grades, input_name, parameters_of
from cliffnn.checks import (
    autocast,
    autocasting,
    broadcast,
    check_alike,
    check_multivector,
    check_shape,
    flattened,
    same,
)
from cliffnn.expressions import EXPRESSIONS, FINDERS, Expression
from cliffnn.operation import operation, text
from cliffnn.ops import evaluate

if TYPE_CHECKING:
    from kingdon import MultiVector

    from cliffnn.statements import Statement, Value
    from cliffnn.trace import Trace
    from cliffnn.tracing import Tracer


def geometric_op(algebra: AlgebraLike) -> Callable[[Callable], GeometricOp]:
    """Make a function of multivectors a fused differentiable operator on tensors.

    The function is written with kingdon's operators, ``* / ^ | & ~ >> **``, ``.dual()``, ``.grade()``, ``.sp()``, and
    so on, constants, and torch's elementary functions of scalars (``torch.sqrt(n | n)``, or ``(n | n).sqrt()``). It
    is run once, on symbols, and differentiated as often as it takes.

    Parameters
    ----------
    algebra : str, int, tuple or Algebra

    Returns
    -------
    callable
        Decorates a function: see `GeometricOp`. Annotations say which grades a multivector holds: ``"scalar"``,
        ``"vector"``, ``"bivector"``, ..., ``"pseudoscalar"``, ``"pseudovector"``, ``"even"``, ``"odd"``, an int, a
        tuple of these; none: all. ``"paths"``: coefficients, one for each path of the product of the first two
        multivectors, as a mapping from ``(i, j, k)``. A parameter with a default value is that constant.

    Raises
    ------
    ValueError, TypeError
        If there is no such algebra or grade.

    References
    ----------
    Roelfs, De Keninck: Graded symmetry groups, plane and simple, arXiv:2107.03771, for the products' names.

    Examples
    --------
    >>> import torch, cliffnn
    >>> @cliffnn.geometric_op("R3")
    ... def reflect(n: "vector", x: "vector"):
    ...     return -n * x / n
    >>> reflect(torch.tensor([[1.0], [0.0], [0.0]]), torch.tensor([[1.0], [2.0], [3.0]])).squeeze(-1)
    tensor([-1.,  2.,  3.])
    >>> reflect.out_grades
    (1,)
    """
    if callable(algebra):
        raise TypeError("geometric_op: got a function, wanted an algebra, as in @geometric_op('R3')")
    known = Algebra(algebra)
    return lambda function: GeometricOp(function, known)


class _Traced(NamedTuple):
    """What is known of a function that was traced: its registered name, and the grades of its results."""

    name: str
    grades: tuple[tuple[int, ...], ...]
    several: bool


class GeometricOp:
    """A function of multivectors as an operator on tensors; made by `geometric_op`.

    It takes a tensor ``(..., blades held, channels)`` for each parameter. Leading dimensions and channels broadcast;
    what has no rows of its own is one multivector for all rows. It gives a tensor ``(..., blades held, channels)``,
    or a tuple of them. Coefficients are ``(paths, channels)``, the same for all rows.

    Attributes
    ----------
    algebra : Algebra
    grades : dict
        That each multivector holds, by its name.
    paths : dict
        That each parameter has coefficients for, by its name.
    """

    __name__: str
    __qualname__: str

    def __init__(self, function: Callable, algebra: Algebra):
        functools.update_wrapper(self, function)
        self.algebra = algebra
        returned = getattr(function, "__annotations__", {}).get("return")
        self._held = None if returned is None else annotated_grades(returned, algebra, "return")
        parameters = parameters_of(function)
        coefficients = [name for name, annotation in parameters.items() if annotation in PATHS]
        self.grades = {
            name: None if annotation is None else annotated_grades(annotation, algebra, name)
            for name, annotation in parameters.items()
            if name not in coefficients
        }
        if coefficients and (len(self.grades) < 2 or [*self.grades, *coefficients] != [*parameters]):
            raise TypeError(f"{coefficients[0]}: got the annotation 'paths', wanted it after two multivectors or more")
        factors = list(self.grades.values())[:2]
        self.paths = {name: algebra.paths_between(factors[0], factors[1], self._held) for name in coefficients}
        self._function = function
        self._inputs = tuple(input_name(name, position) for position, name in enumerate(parameters))
        # a compiler may take an int for one of many
        self._key = str(len(_OPERATORS))
        _OPERATORS[self._key] = self
        self._begins = re.sub(r"[^A-Za-z0-9_]", "", self.__name__)
        FINDERS.append(self._find)

    def __reduce__(self) -> str:
        return self.__qualname__

    def __repr__(self) -> str:
        return f"<geometric_op {self.__qualname__} in {self.algebra}>"

    @property
    def _rows(self) -> tuple[str, ...]:
        """What generated source calls the multivectors."""
        return self._inputs[: len(self.grades)]

    @property
    def out_grades(self) -> tuple[int, ...] | tuple[tuple[int, ...], ...]:
        """The grades that the result holds, those that do not vanish identically; of several results, a tuple."""
        traced = self._traced
        return traced.grades if traced.several else traced.grades[0]

    def __call__(self, *tensors: Tensor, **named: Tensor) -> Tensor | tuple[Tensor, ...]:
        given = self._given(tensors, named)
        for name, grades in self.grades.items():
            check_multivector(name, given[name], self.algebra, grades)
        if autocasting(next(iter(given.values())).device.type):
            given = autocast(given)
        check_alike(given)
        coefficients = [given.pop(name) for name in self.paths]
        lead, channels = broadcast(given)
        for (name, paths), tensor in zip(self.paths.items(), coefficients, strict=True):
            check_shape(name, tensor, (len(paths), channels), "(paths, channels)")
        # not .numel(), which a compiler takes for a number that never changes
        single = [same(tensor.shape[:-2], (1,) * (tensor.ndim - 2)) for tensor in given.values()]
        shared = tuple([alone and not all(single) for alone in single])
        flat = [
            tensor.reshape(-1, tensor.shape[-1]).expand(-1, channels).contiguous()
            if alone
            else flattened(tensor, lead, channels)
            for tensor, alone in zip(given.values(), shared, strict=True)
        ]
        what, several = _text(self._key, shared)
        results = evaluate(what, self.algebra, [*flat, *coefficients])
        if len(lead) != 1:
            results = [result.reshape(*lead, *result.shape[1:]) for result in results]
        return tuple(results) if several else results[0]

    def source(self, language: str = "torch", wrt: tuple[str, ...] | str = ()) -> str:
        """The generated source, for a person to read.

        Parameters
        ----------
        language : str
            ``"torch"`` or ``"triton"``.
        wrt : str or tuple of str
            Parameters: the source of the gradient with respect to these.
        """
        chosen = operation(_text(self._key, (False,) * len(self.grades))[0], self.algebra.name)
        if wrt:
            inputs = dict(zip((*self.grades, *self.paths), self._inputs, strict=True))
            names = (wrt,) if isinstance(wrt, str) else wrt
            if unknown := [name for name in names if name not in inputs]:
                raise ValueError(f"wrt: got {unknown[0]!r}, wanted some of {', '.join(inputs)}")
            chosen = chosen.vjp(chosen.outputs, [inputs[name] for name in names])
        if language == "torch":
            from cliffnn.codegen import function_source, program_of

            return function_source(self._begins, program_of(chosen))
        if language == "triton":
            from cliffnn.kernels.source import Kernel, kernel_source

            return kernel_source(Kernel(chosen, tuple(chosen.outputs)))
        raise ValueError(f"language: got {language!r}, wanted 'torch' or 'triton'")

    def _find(self, name: str) -> None:
        """Trace the function if an expression of that name may be what it gives."""
        if name.rpartition("_")[0] == self._begins:
            self._traced  # noqa: B018

    def _given(self, tensors: tuple[Tensor, ...], named: dict[str, Tensor]) -> dict[str, Tensor]:
        names = (*self.grades, *self.paths)
        given = dict(zip(names, tensors, strict=False))
        if len(tensors) > len(names) or given.keys() & named.keys() or given.keys() | named.keys() != set(names):
            got = [*["a tensor"] * len(tensors), *(f"{name}=" for name in named)]
            raise TypeError(f"{self.__name__}: got {', '.join(got) or 'nothing'}, wanted {', '.join(names)}")
        return {name: given[name] if name in given else named[name] for name in names}

    @functools.cached_property
    def _traced(self) -> _Traced:
        from cliffnn.tracing import Tracer, argument

        blades = [self.algebra.blades_of(grades) for grades in self.grades.values()]
        counts = [range(len(paths)) for paths in self.paths.values()]
        symbols = {
            name: tuple(f"{name}{index}" for index in indices)
            for name, indices in zip(self._inputs, [*blades, *counts], strict=True)
        }
        tracer = Tracer(symbol for of_input in symbols.values() for symbol in of_input)
        known, keys = self.algebra.kingdon, tuple(self.algebra.kingdon.canon2bin.values())
        of_rows, of_paths = self._rows, self._inputs[len(blades) :]
        arguments: list[Any] = [
            argument(tracer, known, tuple(keys[blade] for blade in held), symbols[name])
            for name, held in zip(of_rows, blades, strict=True)
        ]
        for name, paths in zip(of_paths, self.paths.values(), strict=True):
            scalars = [argument(tracer, known, keys[:1], (symbol,)) for symbol in symbols[name]]
            arguments.append(dict(zip(paths, scalars, strict=True)))
        try:
            returned = self._function(*arguments)
            several = isinstance(returned, (tuple, list))
            results = [self._result(result, tracer) for result in (returned if several else (returned,))]
        except Exception as error:
            self._explain(error)
        grades = tuple(self._held or result.grades for result in results)
        if not all(grades):
            raise ValueError(f"{self.__name__}: got a result that is zero for all inputs, wanted one that has grades")
        if self._held and (more := set(results[0].grades) - set(self._held)):
            raise ValueError(
                f"{self.__name__}: got a result with grades {tuple(sorted(more))} too, wanted {self._held}, "
                "as annotated; return .grade() of it"
            )
        statements = tuple(tracer.builder.statements)
        written = [self.algebra.name, symbols, grades, [(name, _written(value)) for name, value in statements]]
        written += [[(key, _written(number.polynomial)) for key, number in result.items()] for result in results]
        digest = hashlib.sha256(repr(written).encode()).hexdigest()[:12]
        name = f"{self._begins}_{digest}"
        names = tuple(f"out_{_letters(index)}" for index in range(len(results))) if several else ("out",)
        params = {name: len(symbols[name]) for name in of_paths}
        function = _replay(self, statements, results)
        EXPRESSIONS[name] = Expression(name, function, of_rows, params, names)
        return _Traced(name, grades, several)

    def _result(self, result: Any, tracer: Tracer) -> MultiVector:
        from kingdon import MultiVector
        from kingdon.operators import dict_to_multivector

        from cliffnn.tracing import Number

        if isinstance(result, (Number, int, float)):
            result = self.algebra.kingdon.mvtype.fromkeysvalues(self.algebra.kingdon, (0,), [result], raw=True)
        if not isinstance(result, MultiVector):
            raise TypeError(f"it returns {type(result).__name__}, wanted a multivector, or a tuple of them")
        if result.algebra != self.algebra.kingdon:
            raise ValueError(f"it returns a multivector of another algebra, wanted one of {self.algebra}")
        values = {k: v if isinstance(v, Number) else tracer.constant(v) for k, v in result.items()}
        return dict_to_multivector(values, self.algebra.kingdon)

    def _explain(self, error: Exception) -> NoReturn:
        """Say in which line of the function it went wrong."""
        from cliffnn.tracing import FUNCTIONS, NULL_DIVISION

        code = self._function.__code__
        frames = [frame for frame in traceback.walk_tb(error.__traceback__) if frame[0].f_code is code]
        file, line = code.co_filename, frames[-1][1] if frames else code.co_firstlineno
        source = linecache.getline(file, line).strip()
        where = f"{self.__name__}, {file}, line {line}" + (f": {source}" if source else "")
        kind = type(error) if isinstance(error, (TypeError, ValueError, ZeroDivisionError)) else ValueError
        # kingdon divides by what is null without a word
        says = NULL_DIVISION if isinstance(error, ZeroDivisionError) and not str(error) else error
        may = f"Wanted multivectors and blades of {self.algebra}, numbers, kingdon's operators on them, and of scalars"
        raise kind(f"{where}\n{says}\n{may} {', '.join(FUNCTIONS)}.") from error


# By number, which is all that a compiler has to know of one.
_OPERATORS: dict[str, GeometricOp] = {}


def _text(key: str, shared: tuple[bool, ...]) -> tuple[str, bool]:
    """The text of an operator's operation, and whether it has several results."""
    self = _OPERATORS[key]
    traced = self._traced
    grades: dict[str, tuple[int, ...] | None] = dict(zip(self._rows, self.grades.values(), strict=True))
    grades |= dict(zip(EXPRESSIONS[traced.name].results, traced.grades, strict=True))
    alone = [name for name, is_shared in zip(self._rows, shared, strict=True) if is_shared]
    return text(traced.name, grades, alone), traced.several


# torch.compile calls this function where it would trace others: see `cliffnn.algebra`.
_text._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _written(value: Value) -> object:
    """The same text in every process."""
    return value.args if hasattr(value, "args") else (value.function, value.arguments)


def _replay(self: GeometricOp, statements: tuple[Statement, ...], results: list[MultiVector]) -> Callable:
    """The traced function, as expressions are written."""

    def function(trace: Trace, *_: MultiVector) -> tuple[MultiVector, ...]:
        from kingdon.polynomial import RationalPolynomial

        for name, value in statements:
            trace.builder.assign(name, value)
        return tuple(result.map(lambda number: RationalPolynomial(number.polynomial)) for result in results)

    function.__doc__ = (self.__doc__ or self.__name__).strip().partition("\n")[0].replace("\\", "").replace('"""', "")
    return function


def _letters(index: int) -> str:
    """a, b, ..., z, ba, bb, ...: numbers in names are those of blades."""
    rest, last = divmod(index, len(string.ascii_lowercase))
    return (_letters(rest) if rest else "") + string.ascii_lowercase[last]

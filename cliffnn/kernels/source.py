"""Triton kernels printed as source, for a person to read.

A program of a kernel goes over tiles of ``ROWS`` rows and ``CHANNELS`` channels, together ``LANES`` multivectors. All
blades of a tile come in one memory operation and are taken apart by `tl.split`: the compiler's time grows with memory
operations times arithmetic. The number of channels is a constant, so blades lie at constant distances.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from cliffnn.algebra import Algebra
from cliffnn.codegen import file_name, programs
from cliffnn.expressions import EXPRESSIONS, Expression
from cliffnn.kernels.norm import blades_of, gradient_before_norm, inner, quadratic_form
from cliffnn.kernels.plan import power_of_two
from cliffnn.kernels.tiles import load, names, stack, store, sums_over_channels, tuple_of, unstack

_HEADER = '''"""{title}

Written by cliffnn.
"""

import triton
import triton.language as tl

from cliffnn.kernels.device import normal_cdf, normal_pdf, to_lanes

'''


@dataclass(frozen=True)
class Kernel:
    """What the source of a kernel depends on.

    Attributes
    ----------
    expression : str
    algebra : Algebra
    normalize : bool
        Whether `forward` ends, and its gradient begins, with the norm.
    wrt : tuple of str
        The groups that a backward kernel differentiates with respect to.
    whole_rows : bool
        Whether a tile holds all channels, so that means over the channels need no other kernel.
    recompute : bool
        Whether a backward kernel computes the normalised result anew instead of reading it.
    loop : bool
        Whether a program goes over many tiles of rows; else it has one, and takes fewer registers.
    """

    expression: str
    algebra: Algebra
    normalize: bool = False
    wrt: tuple[str, ...] = ()
    whole_rows: bool = True
    recompute: bool = True
    loop: bool = True

    @cached_property
    def specification(self) -> Expression:
        return EXPRESSIONS[self.expression]

    @property
    def blades(self) -> int:
        return len(self.algebra)

    @property
    def paths(self) -> int:
        return len(self.algebra.paths)

    @property
    def grades(self) -> tuple[int, ...]:
        """The grades that are normalised."""
        return self.algebra.normed_grades if self.normalize else ()

    def name(self, kind: str) -> str:
        options = [
            "norm" if self.normalize else "",
            "rows" if self.whole_rows else "blocks",
            "recompute" if self.wrt and self.recompute else "",
            "loop" if self.loop else "",
        ]
        return file_name(self.expression, self.algebra.name, kind, *self.wrt, *filter(None, options), "triton")


def forward_source(kernel: Kernel) -> str:
    """The kernel of an expression and, on whole rows, of the norm that follows it.

    On blocks of channels it writes the result not yet normalised and, for each block, the sums that `scale_source`
    normalises with.
    """
    program, _ = programs(kernel.expression, kernel.algebra)
    spec = kernel.specification
    blades = range(kernel.blades)
    tensors = [*spec.inputs, "out"]
    body = [f"{name} = {load(name)}" for name in spec.rows]
    for name in spec.rows:
        body += unstack(name, names(name, blades))
    body.append(f"{tuple_of('out', blades)} = forward({', '.join(_arguments(kernel))})")
    if kernel.normalize:
        tensors.append("scales")
        body += [f"sum{k} = tl.abs({quadratic_form(kernel.algebra, k, 'out')})" for k in kernel.grades]
        body += sums_over_channels(kernel.grades)
        if kernel.whole_rows:
            body += [f"scale{k} = 1.0 / tl.sqrt(sum{k} / channels + EPS)" for k in kernel.grades]
            body += [_store_row(kernel, "scales_ptr", k, f"scale{k}") for k in kernel.grades]
            body += [f"scale{k} = to_lanes(scale{k}, CHANNELS)" for k in kernel.grades]
            body += [f"out{b} = out{b} * scale{k}" for k in kernel.grades for b in blades_of(kernel.algebra, k)]
        else:
            body += [_store_row(kernel, "scales_ptr", k, f"sum{k}") for k in kernel.grades]
    body += store("out", names("out", blades))
    return _module(
        f"{kernel.expression} in {kernel.algebra.name}: {spec.function.__doc__}",
        [_function("forward", program), _kernel(kernel, "forward_kernel", tensors, body, constants=["EPS"])],
    )


def scale_source(kernel: Kernel) -> str:
    """The kernel that normalises what `forward_source` wrote on blocks of channels."""
    blades = range(kernel.blades)
    body = _load_rows(kernel, "scales", "scale")
    body += [f"product = {load('product')}", *unstack("product", names("out", blades))]
    body += [f"out{b} = out{b} * scale{k}" for k in kernel.grades for b in blades_of(kernel.algebra, k)]
    body += store("out", names("out", blades))
    title = f"multiply each row and grade by its scale, in {kernel.algebra.name}"
    return _module(title, [_kernel(kernel, "scale_kernel", ["product", "scales", "out"], body, params=False)])


def inner_source(kernel: Kernel) -> str:
    """The kernel that sums, by row and grade, the products of a gradient and a result over blades and channels."""
    blades = range(kernel.blades)
    body = [f"{name} = {load(name)}" for name in ("grad", "out")]
    for name in ("grad", "out"):
        body += unstack(name, names(name, blades))
    body += [f"sum{k} = {inner(kernel.algebra, k)}" for k in kernel.grades]
    body += sums_over_channels(kernel.grades)
    body += [_store_row(kernel, "inner_ptr", k, f"sum{k}") for k in kernel.grades]
    title = f"sums over blades and channels of gradient times result, by grade, in {kernel.algebra.name}"
    tensors = ["grad", "out", "inner"]
    return _module(title, [_kernel(kernel, "inner_kernel", tensors, body, params=False)])


def backward_source(kernel: Kernel) -> str:
    """The kernel of an expression's gradients.

    The gradient of the norm needs, by row and grade, a mean over all channels: summed here on whole rows, else
    what `inner_source` summed. Gradients of coefficients are summed over the rows that a program goes over.
    """
    forward, vjp = programs(kernel.expression, kernel.algebra, kernel.wrt)
    algebra, spec = kernel.algebra, kernel.specification
    blades = range(kernel.blades)
    recompute = kernel.normalize and kernel.recompute
    used = {symbol for _, value in vjp.statements for symbol in _symbols(value)}
    reads = [name for name in spec.rows if recompute or not used.isdisjoint(vjp.inputs[name])]
    if kernel.normalize and not recompute:
        reads.append("out")

    body = [f"{name} = {load(name)}" for name in ("grad", *reads)]
    body += _load_rows(kernel, "scales", "scale")
    body += unstack("grad", names("grad_out", blades))
    for name in reads:
        body += unstack(name, names(name, blades))
    if recompute:
        body.append(f"{tuple_of('out', blades)} = forward({', '.join(_arguments(kernel))})")
        body += [f"out{b} = out{b} * scale{k}" for k in kernel.grades for b in blades_of(algebra, k)]
    if kernel.whole_rows:
        body += [f"sum{k} = {inner(algebra, k, 'grad_out')}" for k in kernel.grades]
        body += sums_over_channels(kernel.grades)
        body += [f"sum{k} = to_lanes(sum{k}, CHANNELS)" for k in kernel.grades]
    else:
        body += _load_rows(kernel, "inner", "sum")
    for k in kernel.grades:
        body += gradient_before_norm(algebra, k)

    arguments = [
        argument if name in reads or name in spec.params else f"({'0.0, ' * kernel.blades})"
        for name, argument in zip(spec.inputs, _arguments(kernel), strict=True)
    ]
    gradients = [symbol for name in kernel.wrt for symbol in vjp.outputs[f"grad_{name}"]]
    totals = [name for name in kernel.wrt if name in spec.params]
    arguments += [
        tuple_of("grad_out", blades),
        *(tuple_of(f"grad_{name}", range(kernel.paths)) for name in totals),
    ]
    body.append(f"({', '.join(gradients)},) = backward({', '.join(arguments)})")
    for name in kernel.wrt:
        if name in spec.rows:
            body += store(f"grad_{name}", vjp.outputs[f"grad_{name}"])

    before = [f"{symbol} = tl.zeros((LANES,), COMPUTE)" for name in totals for symbol in vjp.outputs[f"grad_{name}"]]
    after = []
    for name in totals:
        after += stack(f"grad_{name}", vjp.outputs[f"grad_{name}"])
        padded = power_of_two(kernel.paths)
        after += [
            f"grad_{name} = tl.sum(tl.reshape(grad_{name}, (ROWS, CHANNELS, {padded})), 0)",
            f"path = tl.arange(0, {padded})[:, None]",
            "channel = tl.multiple_of(tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS), VECTOR)[None, :]",
            f"tl.store(grad_{name}_ptr + (tl.program_id(0) * {kernel.paths} + path) * channels + channel, "
            f"tl.trans(grad_{name}), (channel < channels) & (path < {kernel.paths}))",
        ]
    tensors = ["grad", *reads, *spec.params]
    tensors += ["scales"] * kernel.normalize + ["inner"] * (kernel.normalize and not kernel.whole_rows)
    tensors += [f"grad_{name}" for name in kernel.wrt]
    functions = [_function("forward", forward)] if recompute else []
    functions.append(_function("backward", vjp, totals=[f"grad_{name}" for name in totals]))
    return _module(
        f"gradients of {kernel.expression} in {algebra.name} with respect to {', '.join(kernel.wrt)}",
        [
            *functions,
            _kernel(
                kernel,
                "backward_kernel",
                tensors,
                body,
                ["TOLERANCE"],
                last_first=not kernel.whole_rows,
                before=before,
                after=after,
            ),
        ],
    )


def _module(title: str, parts: list[str]) -> str:
    return _HEADER.format(title=title) + "\n\n".join(parts)


def _kernel(
    kernel: Kernel,
    name: str,
    tensors: list[str],
    body: list[str],
    constants: list[str] | None = None,
    params: bool = True,
    last_first: bool = False,
    before: list[str] | None = None,
    after: list[str] | None = None,
) -> str:
    """A kernel that goes over tiles of rows, with lines before and after the loop, and the tensors that it takes.

    One that follows a kernel with the same rows begins with the last, which the cache may still hold.
    """
    constants = [*(constants or ()), "ROWS", "CHANNELS", "VECTOR", "STAGES", "COMPUTE"]
    signature = [
        *(f"{tensor}_ptr" for tensor in tensors),
        "rows",
        "channels: tl.constexpr",
        *(f"{constant}: tl.constexpr" for constant in constants),
    ]
    blades = kernel.blades
    lines = [
        f"TENSORS = {tuple(tensors)}",
        "",
        "",
        # a batch size that is 1 or a multiple of 16 would else compile anew
        '@triton.jit(do_not_specialize=["rows"])',
        f"def {name}({', '.join(signature)}):",
        "    LANES: tl.constexpr = ROWS * CHANNELS",
        "    lane = tl.arange(0, LANES)",
        "    row = lane // CHANNELS",
        # with no more neighbours at once than a thread computes with, it loads all blades of its lanes itself
        "    channel = tl.multiple_of(tl.program_id(1) * CHANNELS + lane % CHANNELS, VECTOR)",
        f"    offset = (row[None, :] * {blades} + tl.arange(0, {blades})[:, None]) * channels + channel[None, :]",
    ]
    for param in kernel.specification.params if params else ():
        padded = power_of_two(kernel.paths)
        lines += [
            f"    path = tl.arange(0, {padded})[:, None]",
            f"    {param} = tl.load({param}_ptr + path * channels + channel[None, :], "
            f"(path < {kernel.paths}) & (channel < channels)[None, :], 0.0)",
            f"    {param} = tl.trans({param}).to(COMPUTE)",
            *(f"    {line}" for line in unstack(param, names(param, range(padded)))),
        ]
    lines += [f"    {line}" for line in before or ()]
    lines += [
        "    for tile in tl.range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0), num_stages=STAGES):"
        if kernel.loop
        else "    tile = tl.program_id(0)",
    ]
    indent = "        " if kernel.loop else "    "
    # under the interpreter a loop variable is a plain int, which has no method to widen it
    lines += [
        f"{indent}first = tl.full((), ROWS, tl.int64) * {'(tl.cdiv(rows, ROWS) - 1 - tile)' if last_first else 'tile'}",
        f"{indent}base = first * ({blades} * channels)",
        f"{indent}valid = first + row < rows",
        f"{indent}mask = (valid & (channel < channels))[None, :]",
        *(f"{indent}{line}" for line in body),
        *(f"    {line}" for line in after or ()),
    ]
    return "\n".join(lines) + "\n"


def _function(name: str, program, totals: list[str] | None = None) -> str:
    """A program as a function of tuples; the groups named in ``totals`` come in too, and are added to."""
    from cliffnn.schedule import scheduled

    muls, adds = program.operations
    summed = {symbol for group in totals or () for symbol in program.outputs[group]}
    groups = {**program.inputs, **{group: program.outputs[group] for group in totals or ()}}
    lines = ["@triton.jit", f"def {name}({', '.join(groups)}):"]
    lines.append(f"    # {muls} multiplications, {adds} additions")
    lines += [f"    {', '.join(symbols)}, = {group}" for group, symbols in groups.items()]
    for term in scheduled(program):
        text, negative = _term(term.value)
        if term.first and term.name not in summed:
            lines.append(f"    {term.name} = {'-' if negative else ''}{text}")
        else:
            lines.append(f"    {term.name} {'-' if negative else '+'}= {text}")
    outputs = [symbol for group in program.outputs.values() for symbol in group]
    lines.append(f"    return {', '.join(outputs)},")
    return "\n".join(lines) + "\n"


def _term(value) -> tuple[str, bool]:
    if hasattr(value, "function"):
        return f"{value.function}({value.argument})", False
    coefficient, *factors = value
    if not factors or abs(coefficient) != 1:
        factors = [str(float(abs(coefficient))), *factors]
    return " * ".join(factors), coefficient < 0


def _symbols(value) -> tuple[str, ...]:
    if hasattr(value, "function"):
        return (value.argument,)
    return tuple(factor for monomial in value.args for factor in monomial[1:])


def _arguments(kernel: Kernel) -> list[str]:
    spec = kernel.specification
    return [tuple_of(name, range(kernel.blades)) for name in spec.rows] + [
        tuple_of(name, range(kernel.paths)) for name in spec.params
    ]


def _load_rows(kernel: Kernel, tensor: str, name: str) -> list[str]:
    """Load what each row has for each grade, in one memory operation, and repeat it for each of its channels."""
    if not kernel.grades:
        return []
    grades = len(kernel.algebra.grades)
    length = power_of_two(grades)
    row, grade = "(first + tl.arange(0, ROWS))[:, None]", f"tl.arange(0, {length})[None, :]"
    return [
        f"{tensor} = tl.load({tensor}_ptr + {row} * {grades} + {grade}, ({row} < rows) & ({grade} < {grades}), 0.0)",
        *unstack(tensor, names(name, range(length)), "(ROWS,)"),
        *(f"{name}{k} = to_lanes({name}{k}, CHANNELS)" for k in kernel.grades),
    ]


def _store_row(kernel: Kernel, pointer: str, grade: int, value: str) -> str:
    grades = len(kernel.algebra.grades)
    # on blocks of channels, each block has a table of its own
    table = "" if kernel.whole_rows else f" + tl.full((), {grades}, tl.int64) * rows * tl.program_id(1)"
    row = "(first + tl.arange(0, ROWS))"
    return f"tl.store({pointer} + ({row} * {grades} + {grade}){table}, {value}, {row} < rows)"

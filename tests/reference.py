"""The slow truth: Clifford algebra as bit arithmetic and einsum.

Shares no code with cliffnn, nor with kingdon, which cliffnn generates its code with. An algebra is
its signature ``(p, q, r)``. Basis vectors come null first, then positive, then negative; blades come
grade by grade, lexicographic within; tensors are ``(..., blades, channels)``. Every function computes
in the dtype of its inputs, so that it is the truth in float64 and the yardstick in any other dtype.
"""

import itertools
import math
from functools import cache

import torch

# The relative norm of an error may reach the larger of FLOOR and SLACK times the error that the
# reference itself makes when it is evaluated in the dtype under test.
FLOOR = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.0, torch.float16: 0.0}
SLACK = {torch.float64: 0.0, torch.float32: 2.0, torch.bfloat16: 2.0, torch.float16: 2.0}


def metric(signature):
    """What each basis vector squares to."""
    p, q, r = signature
    return (0,) * r + (1,) * p + (-1,) * q


@cache
def blades(signature):
    """The basis vectors in each blade, as ascending tuples."""
    n = sum(signature)
    return tuple(blade for k in range(n + 1) for blade in itertools.combinations(range(n), k))


@cache
def grade_slices(signature):
    """Where each grade lies on the blade axis."""
    n = sum(signature)
    ends = list(itertools.accumulate(math.comb(n, k) for k in range(n + 1)))
    return tuple(slice(end - math.comb(n, k), end) for k, end in enumerate(ends))


@cache
def quadratic_form(signature):
    """For each blade the product of the metric over its vectors (no sign for the reversal)."""
    return tuple(math.prod(metric(signature)[v] for v in blade) for blade in blades(signature))


@cache
def cayley(signature):
    """The tensor C with ``e_i e_j = sum_k C[i, j, k] e_k``."""
    squares = metric(signature)
    bits = [sum(1 << v for v in blade) for blade in blades(signature)]
    table = torch.zeros(len(bits), len(bits), len(bits), dtype=torch.float64)
    for (i, a), (j, b) in itertools.product(enumerate(bits), repeat=2):
        in_both = [v for v in range(len(squares)) if a & b & 1 << v]
        # Sorting the vectors of e_i e_j moves each vector of b past all larger ones of a.
        swaps = sum((a >> v + 1).bit_count() for v in range(len(squares)) if b & 1 << v)
        table[i, j, bits.index(a ^ b)] = (-1) ** swaps * math.prod(squares[v] for v in in_both)
    return table


@cache
def paths(signature):
    """The ``(i, j, k)`` for which some product of a grade-i and a grade-j blade has grade k."""
    table, grades = cayley(signature), grade_slices(signature)
    triples = itertools.product(range(len(grades)), repeat=3)
    return tuple((i, j, k) for i, j, k in triples if table[grades[i], grades[j], grades[k]].any())


def geometric_product(x, y, signature):
    """``o_k = sum_ij C_ijk x_i y_j``."""
    return torch.einsum("ijk,...ijc->...kc", cayley(signature).to(x), x[..., :, None, :] * y[..., None, :, :])


def weighted_geometric_product(x, y, weight, signature):
    """``o = sum_p weight[p, channel] <<x>_i <y>_j>_k`` over the paths p = (i, j, k)."""
    table, grades = cayley(signature).to(x), grade_slices(signature)
    out = [0] * len(grades)
    for w, (i, j, k) in zip(weight, paths(signature), strict=True):
        pairs = x[..., grades[i], None, :] * y[..., None, grades[j], :]
        out[k] = out[k] + w * torch.einsum("ijk,...ijc->...kc", table[grades[i], grades[j], grades[k]], pairs)
    return torch.cat(out, -2)


def gelu(x, signature):
    """``x Phi(<x>_0)`` with the exact Phi."""
    return x * (0.5 * (1 + torch.erf(x[..., :1, :] / math.sqrt(2))))


def rms_norm(x, signature, eps=1e-6):
    """``<x>_k / sqrt(mean over channels of |q_k(x)| + eps)``; a grade of null blades alone stays as it is."""
    form = torch.tensor(quadratic_form(signature)).to(x)
    out = []
    for grade in grade_slices(signature):
        part = x[..., grade, :]
        if form[grade].any():
            q = torch.einsum("b,...bc->...c", form[grade], part * part)
            part = part / torch.sqrt(q.abs().mean(-1) + eps)[..., None, None]
        out.append(part)
    return torch.cat(out, -2)


def forms(x, signature):
    """q_k of each grade, ``(..., grades, channels)``."""
    weighted = torch.tensor(quadratic_form(signature)).to(x)[:, None] * x * x
    return torch.stack([weighted[..., s, :].sum(-2) for s in grade_slices(signature)], -2)


def by_blade(x, signature):
    """What each grade has, for each of its blades."""
    return x.repeat_interleave(torch.tensor([s.stop - s.start for s in grade_slices(signature)]).to(x.device), -2)


def silu(x, weight, bias, signature):
    """``<x>_k sigmoid(a_k i_k + b_k)`` with the scalar i_0 and i_k = q_k(x)."""
    invariants = torch.cat([x[..., :1, :], forms(x, signature)[..., 1:, :]], -2)
    # not 1 / (1 + exp), which float16 overflows
    return x * torch.sigmoid(by_blade(weight * invariants + bias, signature))


def smooth_norm(form):
    return (form**2 + 1e-16) ** 0.25


def layer_norm(x, weight, signature):
    """``a x / (mean over channels of |x| + eps)``."""
    size = smooth_norm(forms(x, signature).sum(-2, keepdim=True)).mean(-1, keepdim=True)
    return weight * x / (size + 1e-6)


def normalize(x, weight, signature):
    """``<x>_k / (sigmoid(a_k) (|<x>_k| - 1) + 1 + eps)``."""
    degree = 1 / (1 + torch.exp(-weight))
    return x / by_blade(degree * (smooth_norm(forms(x, signature)) - 1) + 1 + 1e-6, signature)


def steerable_geometric_product(x, y, z, weight, degree, signature):
    """``(z + wgp(x, normalize(y), w)) / sqrt 2``."""
    return (z + weighted_geometric_product(x, normalize(y, degree, signature), weight, signature)) / math.sqrt(2)


def gelu_sgp_norm(x, y, weight, signature, normalize=True, eps=1e-6):
    """The gates of both, their weighted product, and its norm."""
    out = weighted_geometric_product(gelu(x, signature), gelu(y, signature), weight, signature)
    return rms_norm(out, signature, eps) if normalize else out


def outermorphism(matrix, signature):
    """The linear map of vectors extended to blades: the grade-k block holds the k-by-k minors."""
    blocks = []
    for k in range(sum(signature) + 1):
        index = torch.tensor([blade for blade in blades(signature) if len(blade) == k], dtype=torch.long)
        blocks.append(torch.linalg.det(matrix[index[:, None, :, None], index[None, :, None, :]]))
    return torch.block_diag(*blocks)


def versor_action(vectors, signature):
    """The matrix on blades of reflecting in each row of `vectors` in turn: no geometric product in it."""
    form = torch.tensor(metric(signature)).to(vectors)
    matrix = torch.eye(len(form)).to(vectors)
    for v in vectors:
        matrix = matrix - 2 * torch.outer(v, (form * v) @ matrix) / (form * v * v).sum()
    return outermorphism(matrix, signature)


def versor_linear(x, versor, weight, signature, odd=False):
    """``sum over c' of w u x u^-1``, with the root that makes versors of multivectors by Newton's iteration."""
    grades = torch.tensor([len(b) for b in blades(signature)])
    a = x.new_zeros(len(versor), len(grades), x.shape[-1])
    a[:, grades % 2 == odd] = versor
    reverse = torch.tensor([(-1.0) ** (k * (k - 1) // 2) for k in grades.tolist()]).to(x)[:, None]
    square = geometric_product(a, reverse * a, signature)
    sign = square[:, :1].sign()
    one = (grades == 0).to(x)[:, None]
    root = one * square[:, :1].abs().rsqrt()
    for _ in range(8):
        root_square = geometric_product(root, geometric_product(root, square * sign, signature), signature)
        root = geometric_product(root, 3 * one - root_square, signature) / 2
    u = geometric_product(root, a, signature)
    moved = geometric_product(u, ((-1.0) ** (odd * grades)).to(x)[:, None] * x[..., None, :, :], signature)
    moved = geometric_product(moved, sign * reverse * u, signature)
    return (weight[:, None] * moved).sum(-1).movedim(-2, -1)


def msilu(x, weight, bias, signature):
    """Each grade times the logistic function of a linear form of all blades."""
    forms = (x[..., None, :, :] * weight).sum(-2) + bias
    return x / (1 + torch.exp(-by_blade(forms, signature)))


def relative_error(out, exact):
    """``||out - exact|| / ||exact||``; any error where exactly zero is right is infinite."""
    assert out.shape == exact.shape, f"shape {tuple(out.shape)}, expected {tuple(exact.shape)}"
    return ratio((out.double() - exact).norm().item(), exact.norm().item())


def ratio(error, norm):
    """An error relative to a norm; any error where exactly zero is right is infinite."""
    return error / norm if norm else (0.0 if error == 0 else math.inf)


def evaluate(function, inputs, grad, needs_grad):
    """The output and, for the inputs that need one, the gradients of ``(grad * output).sum()``."""
    leaves = [x.detach().requires_grad_(need) for x, need in zip(inputs, needs_grad, strict=True)]
    out = function(*leaves)
    assert out.shape == grad.shape, f"output: shape {tuple(out.shape)}, expected {tuple(grad.shape)}"
    assert out.requires_grad == any(needs_grad), "the output needs a gradient if and only if an input does"
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    names = ["output"] + [f"gradient of input {n}" for n, leaf in enumerate(leaves) if leaf.requires_grad]
    gradients = torch.autograd.grad(out, wanted, grad.to(out)) if wanted else ()
    return dict(zip(names, (out.detach(), *gradients), strict=True))


def assert_correct(function, reference, inputs, needs_grad=None):
    """Compare a function's output and gradients with the reference in float64 of the same rounded inputs."""
    dtype, device = inputs[0].dtype, inputs[0].device
    needs_grad = needs_grad or [True] * len(inputs)
    shape = reference(*(x.double() for x in inputs)).shape
    grad = torch.randn(shape, dtype=torch.float64, device=device).to(dtype)
    exact = evaluate(reference, [x.double() for x in inputs], grad, needs_grad)
    rounded = evaluate(reference, inputs, grad, needs_grad)
    for name, result in evaluate(function, inputs, grad, needs_grad).items():
        assert (result.dtype, result.device) == (dtype, device), f"{name}: {result.dtype} on {result.device}"
        unavoidable = relative_error(rounded[name], exact[name])
        assert_small(relative_error(result, exact[name]), unavoidable, name, dtype)


def assert_correct_by_parts(function, reference, inputs, parts):
    """`assert_correct` for more rows ``(rows, blades, channels)`` than the reference has the memory for.

    The function is called once; the reference goes over slices of the rows, with the same weights.
    """
    dtype, needs_grad = inputs[0].dtype, [True] * len(inputs)
    grad = torch.randn_like(inputs[0])
    results = evaluate(function, inputs, grad, needs_grad)
    assert {result.dtype for result in results.values()} == {dtype}
    squares, sums = dict.fromkeys(results, 0), dict.fromkeys(results, 0)
    for part in parts:
        some = [x[part] if x.dim() == 3 else x for x in inputs]
        exact = evaluate(reference, [x.double() for x in some], grad[part], needs_grad)
        rounded = evaluate(reference, some, grad[part], needs_grad)
        for name, result in results.items():
            if result.dim() == 3:
                errors = [x.double() - exact[name] for x in (result[part], rounded[name])]
                squares[name] += torch.stack([x.square().sum() for x in (*errors, exact[name])])
            else:
                sums[name] += torch.stack([exact[name], rounded[name].double()])
    for name, result in results.items():
        if result.dim() == 3:
            error, unavoidable, norm = squares[name].sqrt().tolist()
            assert_small(ratio(error, norm), ratio(unavoidable, norm), name, dtype)
        else:
            exact, rounded = sums[name]
            assert_small(relative_error(result, exact), relative_error(rounded, exact), name, dtype)


def assert_small(error, unavoidable, name, dtype):
    """Compare an error with the tolerance of its dtype and what the reference itself makes in it."""
    assert math.isfinite(unavoidable), f"{name}: the reference overflows in {dtype}"
    allowed = max(FLOOR[dtype], SLACK[dtype] * unavoidable)
    # Not `error > allowed`: NaN must fail.
    assert error <= allowed, f"{name}: relative error {error:.2e}, allowed {allowed:.2e} in {dtype}"

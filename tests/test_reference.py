"""The reference against what is known by hand, since everything else is held against the reference."""

import itertools
import math

import pytest
import reference
import torch

SIGNATURES = [
    (0, 0, 0),
    (2, 0, 0),
    (3, 0, 0),
    (1, 3, 0),
    (3, 0, 1),
    (2, 0, 1),
    (0, 2, 0),
    (1, 1, 1),
    (5, 0, 0),
]


def multivector(signature, terms):
    """A multivector of one channel from ``{blade: coefficient}``."""
    out = torch.zeros(2 ** sum(signature), 1, dtype=torch.float64)
    for blade, coefficient in terms.items():
        out[reference.blades(signature).index(blade)] = coefficient
    return out


@pytest.mark.parametrize(
    ("signature", "count"),
    [((2, 0, 0), 10), ((3, 0, 0), 20), ((1, 3, 0), 35), ((3, 0, 1), 34), ((5, 0, 0), 56), ((0, 0, 0), 1)],
)
def test_number_of_paths(signature, count):
    paths = reference.paths(signature)
    assert len(paths) == count
    assert list(paths) == sorted(set(paths))


def test_paths_by_hand():
    assert reference.paths((1, 0, 0)) == ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0))
    # A null vector times itself is nothing, so no path leads from two vectors to a scalar.
    assert reference.paths((0, 0, 1)) == ((0, 0, 0), (0, 1, 1), (1, 0, 1))


def test_order_of_blades():
    assert reference.blades((2, 0, 1)) == ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))
    assert reference.metric((2, 1, 1)) == (0, 1, 1, -1)
    assert reference.quadratic_form((1, 1, 1)) == (1, 0, 1, -1, 0, 0, -1, 0)
    assert reference.grade_slices((3, 0, 0)) == (slice(0, 1), slice(1, 4), slice(4, 7), slice(7, 8))


@pytest.mark.parametrize("signature", SIGNATURES)
def test_product_follows_from_the_metric(signature):
    """Associativity, a unit, and the squares of anticommuting vectors determine the whole table."""
    table, squares = reference.cayley(signature), reference.metric(signature)
    size, vectors = len(table), range(1, 1 + len(squares))
    left = torch.einsum("abk,kcd->abcd", table, table)
    right = torch.einsum("akd,bck->abcd", table, table)
    assert torch.equal(left, right)
    assert torch.equal(table[0], torch.eye(size, dtype=torch.float64))
    assert torch.equal(table[:, 0], torch.eye(size, dtype=torch.float64))
    for (n, i), (m, j) in itertools.product(enumerate(vectors), repeat=2):
        anticommutator = table[i, j] + table[j, i]
        assert anticommutator[0] == (2 * squares[n] if n == m else 0)
        assert not anticommutator[1:].any()
    for blade, b in zip(reference.blades(signature), range(size), strict=True):
        product = multivector(signature, {(): 1})
        for v in blade:
            vector = multivector(signature, {(v,): 1})
            product = reference.geometric_product(product, vector, signature)
        assert product[b] == product.abs().sum() == 1


def test_known_products():
    """The quaternions are the even part of R3; e1 e2 and e2 e1 differ by sign; a null vector annihilates."""
    e12, e23 = multivector((3, 0, 0), {(0, 1): 1}), multivector((3, 0, 0), {(1, 2): 1})
    e13 = multivector((3, 0, 0), {(0, 2): 1})
    assert torch.equal(reference.geometric_product(e12, e23, (3, 0, 0)), e13)
    assert torch.equal(reference.geometric_product(e23, e12, (3, 0, 0)), -e13)
    x = multivector((1, 1, 0), {(): 2, (0,): 3, (1,): 5})
    # (2 + 3 e1 + 5 e2)^2 = 4 + 9 - 25 + 12 e1 + 20 e2
    assert torch.equal(
        reference.geometric_product(x, x, (1, 1, 0)), multivector((1, 1, 0), {(): -12, (0,): 12, (1,): 20})
    )
    null = multivector((1, 0, 1), {(0,): 7})
    assert not reference.geometric_product(null, null, (1, 0, 1)).any()


@pytest.mark.parametrize("signature", SIGNATURES)
def test_weights_of_one_make_the_geometric_product(signature):
    x, y = torch.randn(2, 3, 2 ** sum(signature), 4, dtype=torch.float64)
    weight = torch.ones(len(reference.paths(signature)), 4, dtype=torch.float64)
    out = reference.weighted_geometric_product(x, y, weight, signature)
    torch.testing.assert_close(out, reference.geometric_product(x, y, signature))


def test_each_weight_acts_on_its_path_and_channel():
    signature, paths = (1, 1, 0), reference.paths((1, 1, 0))
    weight = torch.zeros(len(paths), 2, dtype=torch.float64)
    weight[paths.index((1, 1, 0)), 1] = 10
    x = multivector(signature, {(): 1, (0,): 2, (1,): 3, (0, 1): 4}).repeat(1, 2)
    y = multivector(signature, {(): 1, (0,): 5, (1,): 7, (0, 1): 4}).repeat(1, 2)
    out = reference.weighted_geometric_product(x, y, weight, signature)
    # 10 (2 * 5 - 3 * 7), in the second channel alone
    assert out.tolist() == [[0, -110], [0, 0], [0, 0], [0, 0]]


def test_gelu_by_hand():
    x = multivector((2, 0, 0), {(): 1, (0,): -2, (0, 1): 3})
    phi = 0.5 * math.erfc(-1 / math.sqrt(2))
    torch.testing.assert_close(reference.gelu(x, (2, 0, 0)), phi * x)
    scalars = torch.randn(5, 1, 3, dtype=torch.float64)
    torch.testing.assert_close(reference.gelu(scalars, (0, 0, 0)), torch.nn.functional.gelu(scalars))


def test_rms_norm_by_hand():
    x = torch.cat(
        [
            multivector((1, 1, 1), {(): 3, (0,): 9, (1,): 2, (2,): 4, (0, 1): 5, (1, 2): 6, (0, 1, 2): 8}),
            multivector((1, 1, 1), {(): 4, (0,): 7, (1,): 5, (2,): 1, (0, 1): 1, (1, 2): 2, (0, 1, 2): 9}),
        ],
        dim=1,
    )
    # mean |q|: scalar (9 + 16) / 2; vectors (|4 - 16| + |25 - 1|) / 2; bivectors (36 + 4) / 2
    r = [12.5, 18, 18, 18, 20, 20, 20, 1]
    expected = x / torch.tensor(r, dtype=torch.float64).sqrt()[:, None]
    torch.testing.assert_close(reference.rms_norm(x, (1, 1, 1), eps=0.0), expected)
    zeros = torch.zeros(8, 2, dtype=torch.float64)
    assert torch.equal(reference.rms_norm(zeros, (1, 1, 1)), zeros)


@pytest.mark.parametrize("signature", [s for s in SIGNATURES if s[0] + s[1] > 0])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_versors_keep_the_algebra(signature, count):
    """Reflections by minors respect the product and the quadratic form, which neither was told."""
    action = reference.versor_action(torch.randn(count, sum(signature), dtype=torch.float64), signature)
    x, y = torch.randn(2, 2 ** sum(signature), 4, dtype=torch.float64)
    moved = reference.geometric_product(action @ x, action @ y, signature)
    exact = action @ reference.geometric_product(x, y, signature)
    # Vectors close to the cone have large actions, so the error is relative to them.
    assert (moved - exact).norm() <= 1e-12 * action.norm() ** 2 * x.norm() * y.norm()
    form = torch.diag(torch.tensor(reference.quadratic_form(signature), dtype=torch.float64))
    assert (action.T @ form @ action - form).norm() <= 1e-12 * action.norm() ** 2
    # The unit pseudoscalar picks up the determinant: -1 for an odd number of reflections.
    torch.testing.assert_close(action[-1, -1].item(), (-1.0) ** count)


def test_versor_action_by_hand():
    reflection = reference.versor_action(torch.tensor([[3.0, 0.0]]), (2, 0, 0))
    assert torch.equal(reflection, torch.diag(torch.tensor([1.0, -1.0, 1.0, -1.0])))


def test_comparison_can_fail():
    x = torch.randn(3, 4, 2)
    double, wrong = (lambda x: x * 2), (lambda x: x * 2.002)
    reference.assert_correct(double, double, [x])
    reference.assert_correct(double, double, [x[:0]])
    with pytest.raises(AssertionError, match=r"output: relative error 1\.00e-03"):
        reference.assert_correct(wrong, double, [x])
    with pytest.raises(AssertionError, match="gradient of input 0"):
        reference.assert_correct(lambda x: x + x.detach(), double, [x])
    with pytest.raises(AssertionError, match="relative error nan"):
        reference.assert_correct(lambda x: x * 2 + math.nan, double, [x])
    with pytest.raises(AssertionError, match="relative error nan"):
        reference.assert_correct(lambda x: x * 2 + torch.empty_like(x), double, [x])
    with pytest.raises(AssertionError, match="relative error inf"):
        reference.assert_correct(lambda x: x * 1e-9, lambda x: x * 0, [x])
    with pytest.raises(AssertionError, match="shape"):
        reference.assert_correct(lambda x: x[:1] * 2, double, [x])
    with pytest.raises(AssertionError, match="needs a gradient"):
        reference.assert_correct(lambda x: x.detach() * 2, double, [x])
    with pytest.raises(AssertionError, match="float64"):
        reference.assert_correct(lambda x: x.double() * 2, double, [x])


def test_comparison_by_parts_can_fail():
    x, weight = torch.randn(5, 4, 2), torch.randn(3, 2)

    def compare(function):
        parts = [slice(0, 2), slice(2, 4), slice(4, 6)]
        reference.assert_correct_by_parts(function, lambda x, w: x * w.sum(0), [x, weight], parts)

    def wrong_in_the_last_row(x):
        return x * torch.tensor([1, 1, 1, 1, 1.001])[:, None, None]

    compare(lambda x, w: x * w.sum(0))
    with pytest.raises(AssertionError, match="output"):
        compare(lambda x, w: wrong_in_the_last_row(x) * w.sum(0))
    with pytest.raises(AssertionError, match="gradient of input 0"):
        compare(lambda x, w: x * w.sum(0) + wrong_in_the_last_row(x) - wrong_in_the_last_row(x).detach())
    with pytest.raises(AssertionError, match="gradient of input 1"):
        compare(lambda x, w: x * w.sum(0) + 1e-3 * (w.sum() - w.sum().detach()))
    with pytest.raises(AssertionError, match="relative error nan"):
        compare(lambda x, w: x * w.sum(0) + torch.empty_like(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_fresh_memory_is_poisoned(device, dtype):
    x = torch.ones(3, dtype=dtype, device=device)
    fresh = [torch.empty(3, dtype=dtype, device=device), torch.empty_like(x), x.new_empty(3)]
    fresh.append(torch.empty_strided((3,), (1,), dtype=dtype, device=device))
    assert all(memory.isnan().all() for memory in fresh)

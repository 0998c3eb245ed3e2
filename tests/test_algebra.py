"""Parsing, and what follows from a signature."""

import copy
import pickle

import pytest
import reference

from cliffnn import Algebra

SIGNATURES = [
    (0, 0, 0),
    (1, 0, 0),
    (2, 0, 0),
    (3, 0, 0),
    (1, 3, 0),
    (3, 0, 1),
    (1, 1, 1),
    (0, 2, 0),
    (0, 0, 2),
    (5, 0, 0),
    (2, 2, 2),
]


@pytest.mark.parametrize(
    "spec",
    ["R3,0,1", "R 3, 0, 1", (3, 0, 1), [3, 0, 1], Algebra("R3,0,1"), pickle.loads(pickle.dumps(Algebra("R3,0,1")))],
)
def test_one_object_however_it_is_written(spec):
    assert Algebra(spec) is Algebra("R3,0,1")


@pytest.mark.parametrize(
    ("spec", "name"), [(3, "R3"), ((3,), "R3"), ((1, 3), "R1,3"), ((0, 2, 0), "R0,2"), ("R3,0,0", "R3"), (0, "R0")]
)
def test_the_name_is_the_shortest_text(spec, name):
    assert Algebra(spec).name == name
    assert Algebra(Algebra(spec).name) is Algebra(spec)


def test_frozen_and_copied_as_itself():
    algebra = Algebra("R3")
    with pytest.raises(AttributeError, match="frozen"):
        algebra.p = 4
    with pytest.raises(AttributeError, match="frozen"):
        del algebra.p
    assert copy.deepcopy(algebra) is copy.copy(algebra) is algebra
    assert {algebra: 1}[Algebra(3)] == 1


@pytest.mark.parametrize(("spec", "paths"), [("R2", 10), ("R3", 20), ("R1,3", 35), ("R3,0,1", 34), ("R5", 56)])
def test_number_of_paths(spec, paths):
    assert len(Algebra(spec).paths) == paths


@pytest.mark.parametrize("signature", SIGNATURES, ids=str)
def test_against_the_reference(signature):
    algebra = Algebra(signature)
    assert algebra.paths == tuple(reference.paths(signature))
    assert list(algebra.quadratic_form) == list(reference.quadratic_form(signature))
    cayley = reference.cayley(signature)
    assert len(algebra.products) == int((cayley != 0).sum())
    assert all(cayley[a, b, c] == sign for a, b, c, sign in algebra.products)


@pytest.mark.parametrize("signature", SIGNATURES, ids=str)
def test_blades_are_named_as_kingdon_names_them(signature):
    algebra = Algebra(signature)
    assert list(algebra.kingdon.canon2bin) == list(algebra.blades)


def test_the_basis_is_null_then_positive_then_negative():
    assert Algebra("R1,1,1").signature == (0, 1, -1)
    assert Algebra("R3,0,1").blades[:5] == ("e", "e0", "e1", "e2", "e3")
    assert Algebra("R1,3").blades[:5] == ("e", "e1", "e2", "e3", "e4")


@pytest.mark.parametrize("spec", ["__class__", "__dict__", ""])
def test_names_that_python_knows_are_no_algebras(spec):
    with pytest.raises(ValueError, match="wanted 'Rp'"):
        Algebra(spec)

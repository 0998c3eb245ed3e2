"""The algebra: a signature, and everything that follows from it without a tensor."""

from __future__ import annotations

import re
from functools import cached_property
from itertools import combinations, product
from math import comb, prod
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import kingdon

MAX_DIMENSION = 6

_GRAMMAR = (
    f"'Rp', 'Rp,q' or 'Rp,q,r' (as in 'R3', 'R1,3', 'R3,0,1'), an int p, a tuple (p, q, r), or an Algebra, "
    f"with p positive, q negative and r null basis vectors, p + q + r at most {MAX_DIMENSION}"
)


class Algebra:
    r"""The Clifford algebra :math:`\mathrm{Cl}(p, q, r)`.

    A frozen, cached value: equal specifications give the same object.

    Basis vectors are ordered null first, then positive, then negative; blades grade by grade and
    lexicographically within a grade. This is the order of the blade axis of every tensor, whose layout is
    ``(..., blades, channels)``.

    Parameters
    ----------
    spec : str, int, tuple of int, or Algebra
        ``"R3"``, ``"R1,3"``, ``"R3,0,1"``; ``3``; ``(3,)``, ``(1, 3)``, ``(3, 0, 1)``; or an algebra.

    Raises
    ------
    ValueError
        If the text or the numbers name no algebra; the message shows the grammar.
    TypeError
        If ``spec`` is of another type, or missing.

    Examples
    --------
    >>> from cliffnn import Algebra
    >>> spacetime = Algebra("R1,3")
    >>> spacetime, len(spacetime), spacetime.signature
    (Algebra('R1,3'), 16, (1, -1, -1, -1))
    >>> Algebra("R3").blades
    ('e', 'e1', 'e2', 'e3', 'e12', 'e13', 'e23', 'e123')
    >>> Algebra("R3") is Algebra((3, 0, 0))
    True
    """

    p: int
    q: int
    r: int

    def __new__(cls, spec: AlgebraLike) -> Algebra:
        return spec if isinstance(spec, Algebra) else getattr(_known, _meet(spec))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"an Algebra is frozen: cannot set {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"an Algebra is frozen: cannot delete {name!r}")

    def __reduce__(self) -> tuple[type[Algebra], tuple[str]]:
        return Algebra, (self.name,)

    def __copy__(self) -> Algebra:
        return self

    def __deepcopy__(self, memo: dict) -> Algebra:
        return self

    def __repr__(self) -> str:
        return f"Algebra({self.name!r})"

    def __str__(self) -> str:
        return self.name

    def __len__(self) -> int:
        """Number of blades, :math:`2^n`."""
        return 2**self.dim

    @cached_property
    def name(self) -> str:
        """The shortest text that parses to this algebra, as ``"R3"`` or ``"R3,0,1"``."""
        numbers = [self.p, self.q, self.r]
        while len(numbers) > 1 and numbers[-1] == 0:
            numbers.pop()
        return "R" + ",".join(map(str, numbers))

    @cached_property
    def dim(self) -> int:
        """Number of basis vectors, ``p + q + r``."""
        return self.p + self.q + self.r

    @cached_property
    def signature(self) -> tuple[int, ...]:
        """Square of each basis vector: 0, 1 or -1, in the order of the basis."""
        return (0,) * self.r + (1,) * self.p + (-1,) * self.q

    @cached_property
    def start_index(self) -> int:
        """Number in the name of the first basis vector: 0 with one null vector, else 1."""
        return 0 if self.r == 1 else 1

    @cached_property
    def vectors_of_blades(self) -> tuple[tuple[int, ...], ...]:
        """For each blade the basis vectors that it is the product of, counted from 0."""
        return tuple(b for k in self.grades for b in combinations(range(self.dim), k))

    @cached_property
    def blades(self) -> tuple[str, ...]:
        """Names of the blades: ``e``, ``e1``, ..., ``e12``, ..."""
        return tuple("e" + "".join(str(v + self.start_index) for v in vectors) for vectors in self.vectors_of_blades)

    @cached_property
    def grades(self) -> tuple[int, ...]:
        """The grades, 0 to ``dim``."""
        return tuple(range(self.dim + 1))

    @cached_property
    def grade_sizes(self) -> tuple[int, ...]:
        """Number of blades of each grade."""
        return tuple(comb(self.dim, k) for k in self.grades)

    @cached_property
    def grade_slices(self) -> tuple[slice, ...]:
        """Slice of the blade axis that holds each grade."""
        ends = [sum(self.grade_sizes[: k + 1]) for k in self.grades]
        return tuple(slice(end - size, end) for end, size in zip(ends, self.grade_sizes, strict=True))

    @cached_property
    def grade_of_blades(self) -> tuple[int, ...]:
        """Grade of each blade."""
        return tuple(len(vectors) for vectors in self.vectors_of_blades)

    @cached_property
    def quadratic_form(self) -> tuple[int, ...]:
        r"""Weight :math:`m_b` of each blade in :math:`q_k(x) = \sum_{b \in k} m_b x_b^2`: 0, 1 or -1.

        It is the product of the squares of the blade's vectors, the form :math:`\langle \tilde x x \rangle_0`
        that versors preserve.
        """
        return tuple(prod(self.signature[v] for v in vectors) for vectors in self.vectors_of_blades)

    @cached_property
    def normed_grades(self) -> tuple[int, ...]:
        """The grades whose quadratic form is not identically zero."""
        return tuple(k for k in self.grades if any(self.quadratic_form[self.grade_slices[k]]))

    @cached_property
    def paths(self) -> tuple[tuple[int, int, int], ...]:
        r"""The triples :math:`(i, j, k)` with :math:`\langle \langle x \rangle_i \langle y \rangle_j \rangle_k`
        not identically zero, ordered lexicographically.

        Two blades that share m vectors multiply to grade i + j - 2m; they must fit side by side into the
        space, and no shared vector may be null.
        """
        return tuple(
            sorted(
                (i, j, i + j - 2 * shared)
                for i in self.grades
                for j in self.grades
                for shared in range(max(0, i + j - self.dim), min(i, j, self.p + self.q) + 1)
            )
        )

    def paths_between(self, x: GradesLike = None, y: GradesLike = None, out: GradesLike = None) -> tuple[Path, ...]:
        """The `paths` of a product whose factors and result hold only some grades.

        Parameters
        ----------
        x, y, out : int, tuple of int or None
            Grades; None: all.

        Examples
        --------
        >>> Algebra("R3").paths_between(x=1, y=1)
        ((1, 1, 0), (1, 1, 2))
        """
        held = [self.grades if grades is None else self.checked_grades(grades) for grades in (x, y, out)]
        return tuple(path for path in self.paths if all(k in grades for k, grades in zip(path, held, strict=True)))

    def blades_of(self, grades: GradesLike = None) -> tuple[int, ...]:
        """Where the blades of some grades lie along the blade axis of a full multivector.

        Examples
        --------
        >>> Algebra("R2").blades_of((0, 2))
        (0, 3)
        """
        if grades is None:
            return tuple(range(len(self)))
        slices = [self.grade_slices[k] for k in self.checked_grades(grades)]
        return tuple(blade for s in slices for blade in range(s.start, s.stop))

    def slices_of(self, grades: GradesLike = None) -> dict[int, slice]:
        """Where each grade lies along the blade axis of a multivector that holds only some.

        Examples
        --------
        >>> Algebra("R3").slices_of((1, 3))
        {1: slice(0, 3, None), 3: slice(3, 4, None)}
        """
        slices, end = {}, 0
        for k in self.grades if grades is None else self.checked_grades(grades):
            slices[k] = slice(end, end + self.grade_sizes[k])
            end += self.grade_sizes[k]
        return slices

    def checked_grades(self, grades: int | tuple[int, ...], name: str = "grades") -> tuple[int, ...]:
        """One or more grades as an ascending tuple, or a complaint."""
        given = tuple(grades) if isinstance(grades, (tuple, list)) else (grades,)
        wanted = f"wanted a grade or ascending grades of {self.name}, out of {self.grades}"
        if any(not isinstance(k, int) or isinstance(k, bool) for k in given):
            raise TypeError(f"{name}: got {grades!r}, {wanted}")
        if not given or any(k not in self.grades for k in given) or list(given) != sorted(set(given)):
            raise ValueError(f"{name}: got {grades!r}, {wanted}")
        return given

    @cached_property
    def kingdon(self) -> kingdon.Algebra:
        """The same algebra as kingdon builds it."""
        import kingdon

        from cliffnn.tracing import Multivector

        # "large" multiplies polynomials directly; otherwise each operation would first be compiled to a function
        algebra = kingdon.Algebra(signature=list(self.signature), start_index=self.start_index, large=True)
        algebra.mvtype = Multivector
        return algebra

    @cached_property
    def products(self) -> tuple[tuple[int, int, int, int], ...]:
        """The Cayley table: ``(a, b, c, sign)`` for each pair of blades with ``blade_a blade_b = sign blade_c``."""
        blades = self.vectors_of_blades
        position = {vectors: index for index, vectors in enumerate(blades)}
        found = []
        for (a, left), (b, right) in product(enumerate(blades), repeat=2):
            # vectors that pass each other on the way to their order change the sign; pairs of equal ones give squares
            swaps = sum(v > w for v in left for w in right)
            sign = (-1) ** swaps * prod(self.signature[v] for v in left if v in right)
            if sign:
                found.append((a, b, position[tuple(sorted({*left} ^ {*right}))], sign))
        return tuple(found)


AlgebraLike: TypeAlias = Algebra | str | int | tuple[int, ...]
GradesLike: TypeAlias = int | tuple[int, ...] | None
Path: TypeAlias = tuple[int, int, int]


# The algebras that somebody has met, by name. Attributes, which torch.compile reads anew each time: it would remember
# what was in a dict when it first saw it.
_known = SimpleNamespace()


def _meet(spec: AlgebraLike) -> str:
    """The name of an algebra, which is known from then on."""
    if isinstance(spec, str) and spec in vars(_known):
        return spec
    self = object.__new__(Algebra)
    self.__dict__.update(zip("pqr", _parse(spec), strict=True))
    if self.name not in vars(_known):
        # Python 3.11's cached_property takes a lock at first use, which torch.compile can't trace; so use it now
        for name, attribute in vars(Algebra).items():
            if isinstance(attribute, cached_property) and name not in ("kingdon", "products"):
                getattr(self, name)
        # setdefault: of two threads meeting an algebra first, both get the same object
        vars(_known).setdefault(self.name, self)
    return self.name


# torch.compile calls this function where it would trace others, so an algebra may be first met in compiled code. It is
# what torch.compiler.assume_constant_result sets, but for importing the compiler, which takes seconds.
_meet._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _parse(spec: Any) -> tuple[int, int, int]:
    if isinstance(spec, str):
        match = re.fullmatch(r"R(\d+)(?:,(\d+))?(?:,(\d+))?", spec.replace(" ", ""))
        if match is None:
            raise ValueError(f"algebra: got {spec!r}, wanted {_GRAMMAR}")
        numbers = [int(text) for text in match.groups(default="0")]
    elif isinstance(spec, int) and not isinstance(spec, bool):
        numbers = [spec]
    elif isinstance(spec, (tuple, list)):
        if not all(isinstance(number, int) and not isinstance(number, bool) for number in spec):
            raise ValueError(f"algebra: got {spec!r}, wanted {_GRAMMAR}")
        numbers = list(spec)
    else:
        raise TypeError(f"algebra: got {spec!r} of type {type(spec).__name__}, wanted {_GRAMMAR}")
    if not 1 <= len(numbers) <= 3 or min(numbers) < 0 or sum(numbers) > MAX_DIMENSION:
        raise ValueError(f"algebra: got {spec!r}, wanted {_GRAMMAR}")
    p, q, r = numbers + [0] * (3 - len(numbers))
    return p, q, r

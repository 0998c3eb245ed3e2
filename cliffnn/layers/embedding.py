"""From data to multivectors."""

from __future__ import annotations

import torch
from torch import Tensor

import cliffnn.functional as F
from cliffnn.algebra import AlgebraLike, GradesLike
from cliffnn.checks import check_alike, check_features, check_tensor, held_grades
from cliffnn.layers.base import MVLayer, grades_repr


class MVEmbed(MVLayer):
    """Make multivectors of what data are made of, side by side as channels.

    The channels come in the order scalars, vectors, points, pseudoscalars. Other grades: `cliffnn.functional.embed`.

    Parameters
    ----------
    algebra : str, int, tuple or Algebra
    grades : int, tuple of int or None
        That the result holds, those of all that is given among them; None: all.

    Raises
    ------
    ValueError, TypeError
        For an unknown algebra, if nothing is given, or tensors that do not fit the algebra or each other; for points
        in an algebra with more than one null basis vector.

    Examples
    --------
    >>> import torch
    >>> from cliffnn.layers import MVEmbed
    >>> charges, velocities, positions = torch.randn(10, 5, 1), torch.randn(10, 5, 3, 1), torch.randn(10, 5, 3, 1)
    >>> MVEmbed("R3")(scalars=charges, vectors=velocities, points=positions).shape
    torch.Size([10, 5, 8, 3])
    """

    def __init__(self, algebra: AlgebraLike | None = None, grades: GradesLike = None):
        super().__init__(algebra)
        self.grades = held_grades(self.algebra, grades)
        self.finish_init()

    def forward(
        self,
        *,
        scalars: Tensor | None = None,
        vectors: Tensor | None = None,
        points: Tensor | None = None,
        pseudoscalars: Tensor | None = None,
    ) -> Tensor:
        """Embed each, and put their channels side by side.

        Parameters
        ----------
        scalars, pseudoscalars : Tensor or None
            ``(..., channels)``: what does not turn, as charges and masses; what only mirrors change.
        vectors : Tensor or None
            ``(..., p + q + r, channels)``.
        points : Tensor or None
            ``(..., p + q, channels)``, see `cliffnn.functional.embed_points`.

        Returns
        -------
        Tensor
            ``(..., blades, channels of all)``.
        """
        named = {"scalars": scalars, "vectors": vectors, "points": points, "pseudoscalars": pseudoscalars}
        given = {name: x for name, x in named.items() if x is not None}
        if not given:
            raise ValueError(f"got nothing to embed, wanted at least one of {', '.join(named)}")
        check_alike(given)
        algebra = self.algebra
        embedded = {}
        for name, x in given.items():
            if name in ("scalars", "pseudoscalars"):
                check_features(name, x)
                embedded[name] = F.embed(x.unsqueeze(-2), 0 if name == "scalars" else algebra.dim, algebra, self.grades)
            else:
                count = algebra.dim if name == "vectors" else algebra.p + algebra.q
                check_tensor(name, x, count, f"{name} in {algebra.name}", "coordinates")
                embedded[name] = (
                    F.embed_points(x, algebra, self.grades) if name == "points" else F.embed(x, 1, algebra, self.grades)
                )
        shapes = {name: x.shape[:-2] for name, x in embedded.items()}
        first = next(iter(shapes.values()))
        # no set of them: sizes that torch.export knows by name alone have no hash
        if any(shape != first for shape in shapes.values()):
            got = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
            raise ValueError(f"{', '.join(shapes)}: got leading dimensions {got}, wanted them equal")
        return torch.cat(list(embedded.values()), -1)

    def extra_repr(self) -> str:
        return f"algebra={self.algebra.name!r}{grades_repr(grades=self.grades)}"

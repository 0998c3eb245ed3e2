"""What papers call models, built from layers."""

from cliffnn.models.cemlp import CEMLP
from cliffnn.models.cgenn import CGENN
from cliffnn.models.hull import O5ConvexHull
from cliffnn.models.lorentz import LorentzCGENN
from cliffnn.models.regression import O5Regression
from cliffnn.models.volume import O3SignedVolume

__all__ = ["CEMLP", "CGENN", "LorentzCGENN", "O3SignedVolume", "O5ConvexHull", "O5Regression"]

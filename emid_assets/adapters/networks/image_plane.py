"""Images on the valence-arousal plane, in torch: E of a clip with them, and those of largest E at a place.

Belongs here: the emotional half of the formula for `interface.Teacher`. E for the tables of the lake is in
`affect.valence_arousal`.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

STEP = 0.02
"""Edge of a cell, a twentieth of a standard deviation of valence or arousal."""
REACH = 2.0
"""Places beyond this, on either axis, belong to the outermost cells."""
SIDE = round(2 * REACH / STEP) + 1
AT_ONCE = 4_000_000
"""Numbers in a block of E of some cells with all points: bounds its memory."""


class ImagePlane(NamedTuple):
    """M images and the kernel of E.

    Attributes:
        va: (M, 2) float32 aligned VA.
        widths: (M, 2) float32, squared width of the gaussian on each axis: σ² plus the weighted variances of
            image and clip; (0, 2) for the cosine.
        sigma: width of the gaussian; 0 for the cosine.
        in_cells: whether places are rounded to the centres of cells, as `NearestImages` needs it.
    """

    va: Tensor
    widths: Tensor
    sigma: float
    in_cells: bool

    def rounded(self, u: Tensor) -> Tensor:
        """The places (..., 2) at which E is computed for places u."""
        return _centres(_steps(u)) if self.in_cells else u

    def similarity(self, u: Tensor, rows: Tensor) -> Tensor:
        """E of places u (..., 2) with the images in `rows` (...), broadcast.

        It is computed element by element, so that images of equal VA and width have the same E in every bit.
        """
        v = self.va[rows]
        if not self.sigma:
            u, v = normalize(u, dim=-1), normalize(v, dim=-1)
            return (1 + u[..., 0] * v[..., 0] + u[..., 1] * v[..., 1]) / 2
        widths = self.widths[rows]
        exponent = (u[..., 0] - v[..., 0]).square() / widths[..., 0]
        exponent = exponent + (u[..., 1] - v[..., 1]).square() / widths[..., 1]
        return self.sigma**2 * (widths[..., 0] * widths[..., 1]).rsqrt() * torch.exp(-exponent / 2)


class NearestImages:
    """The m images of largest E at each place of the plane, over all images.

    Places are rounded to cells, of which each is searched once. Images of equal VA and width have the same E
    everywhere: they are one point. Of a point with several images, a crowd, each clip takes those with its
    largest scores, which are not known here.

    Attributes:
        images: m, or all if there are fewer.
        crowds: for each crowd the (n,) rows of its images, of which a clip takes m at most.
    """

    def __init__(self, plane: ImagePlane, m: int) -> None:
        facts = torch.cat([plane.va, plane.widths], dim=1) if plane.sigma else plane.va
        _, point_of, counts = torch.unique(facts, dim=0, return_inverse=True, return_counts=True)
        self.images = min(m, len(facts))
        self._members = torch.argsort(point_of, stable=True)
        self._first = counts.cumsum(0) - counts
        self._offered = counts.clamp(max=self.images)
        self._plane, self._points = plane, self._members[self._first]
        crowded = torch.nonzero(counts > 1)[:, 0]
        taken = self._offered[crowded]
        self._place = torch.full_like(counts, -1)
        self._place[crowded] = taken.cumsum(0) - taken
        starts, sizes = self._first[crowded].tolist(), counts[crowded].tolist()
        self.crowds = [self._members[start : start + size] for start, size in zip(starts, sizes, strict=True)]
        self._found = torch.zeros((SIDE**2, self.images), dtype=torch.int32, device=facts.device)
        self._is_known = torch.zeros(SIDE**2, dtype=torch.bool, device=facts.device)

    def at(self, u: Tensor) -> Tensor:
        """(..., m) rows of the images of largest E at the cells of places u (..., 2), best first.

        For an image of a crowd it is -1 - place, where place counts the images that a clip takes of all
        crowds, in their order, and within a crowd by the clip's scores.
        """
        steps = _steps(u)
        cells = steps[..., 0] * SIDE + steps[..., 1]
        new = torch.unique(cells[~self._is_known[cells]])
        for some in new.split(max(1, AT_ONCE // len(self._points))):
            places = _centres(torch.stack([some // SIDE, some % SIDE], dim=1))
            self._found[some] = self._search(places).int()
        self._is_known[new] = True
        return self._found[cells].long()

    def _search(self, u: Tensor) -> Tensor:
        E = self._plane.similarity(u[:, None], self._points)
        best = E.topk(min(self.images, len(self._points)), dim=1).indices
        ends = self._offered[best].cumsum(1)
        places = torch.arange(self.images, device=u.device).expand(len(u), -1).contiguous()
        nth = torch.searchsorted(ends, places, right=True)
        points = best.gather(1, nth)
        within = places - (ends - self._offered[best]).gather(1, nth)
        of_crowd = -1 - (self._place[points] + within)
        return torch.where(self._place[points] >= 0, of_crowd, self._points[points])


def _steps(u: Tensor) -> Tensor:
    return ((u.clamp(-REACH, REACH) + REACH) / STEP).round().long()


def _centres(steps: Tensor) -> Tensor:
    return steps * STEP - REACH

"""Variance components as one kernel of scikit-learn's Gaussian process, which makes it a linear mixed model."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array
from sklearn.gaussian_process.kernels import Hyperparameter, Kernel

Array = NDArray[np.float64]


class Effects(Kernel):
    """Independent effects, one for each column of the design; columns of one component share a standard deviation.

    The covariance is ``Σ sd_k² Z_k Z_kᵀ``, where ``Z_k`` are the columns from ``edges[k]`` to ``edges[k + 1]``. The
    first components have the standard deviations ``given``; those of the others, ``sds``, are estimated.
    """

    def __init__(self, edges: tuple[int, ...], given: Array, sds: Array, sds_bounds: Array) -> None:
        self.edges, self.given, self.sds, self.sds_bounds = edges, given, sds, sds_bounds

    @property
    def hyperparameter_sds(self) -> Hyperparameter:
        """The standard deviations; the search sees their logarithms."""
        return Hyperparameter("sds", "numeric", self.sds_bounds, len(self.sds))

    def _weights(self) -> Array:
        """Variance of the effect of each column."""
        return np.repeat(np.concatenate([self.given, self.sds]) ** 2, np.diff(self.edges))

    def __call__(self, X: Array, Y: Array | None = None, eval_gradient: bool = False) -> Any:
        """Covariance of the rows of X with those of Y (of X), and its derivatives by the logarithms of ``sds``."""
        ours = csc_array(X)  # a few effects take part in each observation
        other = ours if Y is None else csc_array(Y)
        covariance = ((ours * self._weights()) @ other.T).toarray()
        if not eval_gradient:
            return covariance
        gradient = np.empty((len(X), len(X), len(self.sds)))
        free = self.edges[len(self.given) :]
        for place, (sd, first, last) in enumerate(zip(self.sds, free, free[1:], strict=False)):
            own = ours[:, first:last]
            gradient[:, :, place] = 2 * sd**2 * (own @ own.T).toarray()
        return covariance, gradient

    def diag(self, X: Array) -> Array:
        """Variances of the rows of X."""
        return np.square(X) @ self._weights()

    def is_stationary(self) -> bool:
        """Whether only distances count: they do not."""
        return False

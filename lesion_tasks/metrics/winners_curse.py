"""The best of many looks at one test set -> the figure and interval that it would have without that luck.

A champion that was picked because its figure was the highest of n owes part of it to luck (the winner's curse). For n
equally good models whose figures spread by s around their mean, that part is s x the expected maximum of n standard
normal values (Tippett 1925, doi:10.2307/2332087). Figures of models that were retrained on growing data and tested on
the same images move together, so s is far below the standard error of one figure and has to be measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln
from scipy.stats import norm
from scipy.stats import t as student

from lesion_tasks import UnusableInputError
from lesion_tasks.metrics.figure import NOT_PICKED, Interval

# With this many figures a straight line is removed before measuring their spread: slow improvement is not luck.
MIN_FIGURES_OF_LINE = 5


LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Corrected:
    """A figure without the luck of being the best of `n_looks`; `luck` is the amount subtracted, 0 or more.

    `spread` is the standard deviation of equally good models' figures between looks.
    """

    value: float
    interval: Interval
    luck: float
    spread: float
    n_looks: int


def correct_for_looks(
    auc: float,
    standard_error: float,
    n_looks: int,
    earlier: Sequence[float] = (),
    *,
    later: Sequence[float] = (),
    degrees: float = math.inf,
) -> Corrected:
    """Correct `auc` (0 to 1), the highest of `n_looks` (1 or more) at one test set, for having been picked.

    `standard_error` and `degrees`: of the figure itself. `earlier`: figures of earlier looks on the same images, oldest
    first, and `later` those of looks after this one, in all up to `n_looks` - 1; two or more of them give the spread.
    Without them the looks count as independent, which subtracts the most. If one of them is higher, this one was not
    picked for its height and stays unchanged. Raises UnusableInputError if the input is out of range.

    Everything is computed on the logit scale, where the standard error depends least on the figure: a lucky figure has
    a lucky error. The variance is the sum of that of the test images, standard error^2 - spread^2, that of the maximum,
    and that of the spread, which is an estimate. Models that truly differ spread more: they are corrected by too much
    rather than too little.
    """
    n_others = len(earlier) + len(later)
    if n_looks < n_others + 1 or not 0 <= auc <= 1 or not 0 <= standard_error < math.inf:
        raise UnusableInputError(
            f"correction for looks: AUC {auc}, standard error {standard_error}, {n_looks} looks, {n_others} "
            "other figures, expected an AUC of 0 to 1, a finite error, and more looks than other figures"
        )
    if not all(0 < figure < 1 for figure in (*earlier, auc, *later)):
        whole = Interval(low=0.0, high=1.0, method="none: a figure is 0 or 1")
        return Corrected(value=auc, interval=whole, luck=0.0, spread=0.0, n_looks=n_looks)
    is_picked = n_looks > 1 and auc >= max((*earlier, *later), default=auc)
    error = standard_error / (auc * (1 - auc))
    spread, spread_degrees = _spread([_logit(figure) for figure in (*earlier, auc, *later)], error)
    mean, variance = expected_maximum(n_looks) if is_picked else (0.0, 1.0)
    # There and back the logit is off by a rounding, which would be luck below 0.
    value = min(_expit(_logit(auc) - mean * spread), auc) if mean * spread > 0 else auc
    of_images = max(error**2 - spread**2, 0.0)
    of_luck = (variance + mean**2 / (2 * spread_degrees)) * spread**2
    half = float(student.isf((1 - LEVEL) / 2, degrees)) * math.sqrt(of_images + of_luck)
    interval = Interval(
        low=_expit(_logit(value) - half),
        high=_expit(_logit(value) + half),
        method=f"corrected for the best of {n_looks} looks" if is_picked else NOT_PICKED,
    )
    return Corrected(
        value=value,
        interval=interval,
        luck=auc - value,
        spread=spread * auc * (1 - auc),
        n_looks=n_looks,
    )


def expected_maximum(n: int) -> tuple[float, float]:
    """Mean and variance of the largest of `n` independent standard normal values, by quadrature."""
    x = np.linspace(-10.0, 10.0, 20_001)
    density = n * norm.pdf(x) * norm.cdf(x) ** (n - 1)
    density /= density.sum()
    mean = float(density @ x)
    return mean, float(density @ (x - mean) ** 2)


def _spread(figures: Sequence[float], standard_error: float) -> tuple[float, float]:
    """Standard deviation of equally good models' figures, at most that of independent ones, and its degrees."""
    if len(figures) < 3:
        return standard_error, math.inf
    values = np.asarray(figures, dtype=np.float64)
    n_fitted = 2 if len(values) >= MIN_FIGURES_OF_LINE else 1
    weeks = np.arange(len(values), dtype=np.float64)
    residual = values - np.polyval(np.polyfit(weeks, values, n_fitted - 1), weeks)
    degrees = len(values) - n_fitted
    # The root of an unbiased variance is too small on average, by c4 (Holtzman 1950).
    c4 = math.sqrt(2 / degrees) * math.exp(gammaln((degrees + 1) / 2) - gammaln(degrees / 2))
    found = math.sqrt(float(residual @ residual) / degrees) / c4
    return min(found, standard_error), float(degrees)


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x))

"""From what on a change of what the champion sees or says is reported, and how often chance alone may do so."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class WatchBounds:
    """A change is reported if it is more than chance and passes its bound: with many images, trifles are.

    Where nothing has changed, a watch finds a shift, and a fall, with at most this probability each: `error_rate`.
    """

    error_rate: float = 0.05
    # A difference of shares in standard deviations: 2 % of a value that there was none of, 60 % instead of 50 %.
    difference: float = 0.2
    # The AUC with which a classifier tells new images from those before; 0.5 is chance.
    told_apart: float = 0.6
    # By how much the AUC, sensitivity or specificity falls on newer images.
    fall: float = 0.05


WATCH_BOUNDS = WatchBounds()

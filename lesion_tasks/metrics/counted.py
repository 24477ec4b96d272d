"""A number of things -> the words for it: one image, two images. Data and pages take them from here alike."""

import math

# What a reason for a missing interval speaks of, for whoever is not a statistician.
EFFECTIVE_GROUPS = (
    "The effective number of groups says on how many patients or lesions a figure rests: a group is all images of one, "
    "and a large one counts for little more than a small one, so the number is that of equally large groups that "
    "would tell as much (Kish 1965). With fewer than needed, an interval would claim more than the images show, so "
    "there is none."
)


def too_few_groups(of: str, n: float, needed: int) -> str:
    """Why there is no interval: so few groups, by their effective number `n`, of such images; never rounded up."""
    return f"too few {of}: effective number of groups {math.floor(n * 10) / 10:g}, needed {needed}"


def plural(n: int, noun: str) -> str:
    """`1 image`, `2,000 images`: for nouns whose plural has an s more."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def n_pages(n: int, per_page: int) -> int:
    """Of how many pages a list of n is: an empty one has one too."""
    return max(1, -(-n // per_page))

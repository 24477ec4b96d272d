"""A number of things -> the words for it: one image, two images. Data and pages take them from here alike."""


def plural(n: int, noun: str) -> str:
    """`1 image`, `2,000 images`: for nouns whose plural has an s more."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"

"""Synthetic pictures, such as the demo's: known by the end of their attribution, and marked wherever they are shown."""

MARK = "(drawn by a program)"
WARNING = "Synthetic pictures: a program made them. The figures say nothing about skin."


def is_synthetic(attribution: str) -> bool:
    """Whether the picture with this attribution was made by a program."""
    return attribution.endswith(MARK)

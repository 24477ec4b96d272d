"""Pictures that a program drew, such as the demo's: known by the end of their attribution, and said wherever shown."""

MARK = "(drawn by a program)"
WARNING = "Drawn pictures: a program made them. The figures say nothing about skin."


def is_drawn(attribution: str) -> bool:
    """Whether the picture with this attribution was drawn."""
    return attribution.endswith(MARK)

"""Text of somebody's own table or pictures -> words for a message that keep the letters of every script."""


def legible(value: object, limit: int = 500) -> str:
    """One line of at most `limit` characters; what cannot be printed, such as a control character, is escaped.

    `printable` escapes all letters beyond ASCII, as reasons from an archive have it, and takes off memory addresses.
    """
    line = " ".join(str(value).split())
    shown = (
        each if each.isprintable() else each.encode("unicode_escape", "surrogatepass").decode()
        for each in line
    )
    return "".join(shown)[:limit]

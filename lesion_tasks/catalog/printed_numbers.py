"""Numbers -> how people read them: with so many digits and a true minus sign. JSON and CSV keep the hyphen."""

NO_VALUE = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def number(value: float | None, digits: int = 3) -> str:
    """A measure with a fixed number of digits and a true minus sign; a dash if there is none."""
    if value is None:
        return NO_VALUE
    text = f"{value:z.{digits}f}"
    return text.replace("-", MINUS)


def signed(value: float | None, digits: int = 3) -> str:
    """A difference: always with its sign, except for zero."""
    text = number(value, digits)
    return text if value is None or text.startswith(MINUS) or float(text) == 0 else f"+{text}"


def span(low: float | None, high: float | None, digits: int = 3) -> str:
    """An interval in words, or that there is none."""
    if low is None or high is None:
        return "no interval"
    return f"{number(low, digits)} to {number(high, digits)}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share of 0 to 1 in percent."""
    return NO_VALUE if share is None else f"{number(share * 100, digits)} %"

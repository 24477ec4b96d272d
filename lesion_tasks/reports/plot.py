"""Points -> one plot: marks in data coordinates, and inline SVG in the page's colours. No drawing library.

Colours and strokes are classes of the style sheet. To a screen reader a plot is an image: its title and description say
what it shows, and the page also has the data as a table. `pictures` draws the same marks as a PNG.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from lesion_tasks.metrics.document_schema import PublishedFigure

N_COLOURS = 6  # classes series-0 to series-5 of the style sheet, each with its own dash pattern

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Line:
    points: Points
    css: str


@dataclass(frozen=True, kw_only=True)
class Area:
    """A closed, filled shape."""

    points: Points
    css: str


@dataclass(frozen=True, kw_only=True)
class Dot:
    x: float
    y: float
    css: str
    radius: float


@dataclass(frozen=True, kw_only=True)
class Note:
    """Text beside a point, offset from it by `dx` and `dy` pixels of the SVG."""

    x: float
    y: float
    text: str
    anchor: str
    dx: int
    dy: int


Mark = Line | Area | Dot | Note


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A linear axis from `low` to `high` with a few marks."""

    label: str
    low: float = 0.0
    high: float = 1.0
    marks: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    words: Callable[[float], str] = "{:g}".format

    def at(self, value: float) -> float:
        """Position 0 to 1 along the axis."""
        return (value - self.low) / (self.high - self.low)


@dataclass(kw_only=True)
class Plot:
    """Collects marks in data coordinates. `key` says in words what each series is, in order."""

    ident: str  # unique on the page
    title: str
    description: str
    x: Axis
    y: Axis
    width: int = 400
    height: int = 340
    left: int = 54
    right: int = 12
    top: int = 12
    bottom: int = 44
    marks: list[Mark] = field(default_factory=list)
    key: list[str] = field(default_factory=list)

    def line(self, points: Points, css: str) -> None:
        if len(points) > 1:
            self.marks.append(Line(points=points, css=css))

    def area(self, points: Points, css: str) -> None:
        if len(points) > 2:
            self.marks.append(Area(points=points, css=css))

    def dot(self, x: float, y: float, css: str, radius: float = 4) -> None:
        self.marks.append(Dot(x=x, y=y, css=css, radius=radius))

    def note(self, x: float, y: float, text: str, *, anchor: str = "start", dx: int = 0, dy: int = 0) -> None:
        self.marks.append(Note(x=x, y=y, text=text, anchor=anchor, dx=dx, dy=dy))

    def position(self, x: float, y: float) -> tuple[float, float]:
        """Data coordinates -> pixels of the SVG."""
        inner_width, inner_height = self.width - self.left - self.right, self.height - self.top - self.bottom
        return (
            round(self.left + self.x.at(x) * inner_width, 1),
            round(self.height - self.bottom - self.y.at(y) * inner_height, 1),
        )

    def _path(self, points: Points) -> str:
        return "M" + "L".join("{},{}".format(*self.position(x, y)) for x, y in points)

    def _drawn(self, mark: Mark) -> Markup:
        match mark:
            case Line(points=points, css=css):
                return Markup('<path class="{}" d="{}"/>').format(f"line {css}", self._path(points))
            case Area(points=points, css=css):
                return Markup('<path class="{}" d="{}Z"/>').format(css, self._path(points))
            case Dot():
                cx, cy = self.position(mark.x, mark.y)
                return Markup('<circle class="{}" cx="{}" cy="{}" r="{}"/>').format(
                    f"dot {mark.css}", cx, cy, mark.radius
                )
            case Note():
                px, py = self.position(mark.x, mark.y)
                return Markup('<text class="note" x="{}" y="{}" text-anchor="{}">{}</text>').format(
                    px + mark.dx, py + mark.dy, mark.anchor, mark.text
                )

    def svg(self) -> Markup:
        return Markup(
            '<svg class="plot" viewBox="0 0 {w} {h}" role="img" aria-labelledby="{id}-title {id}-desc">'
            '<title id="{id}-title">{title}</title><desc id="{id}-desc">{description}</desc>{grid}{marks}</svg>'
        ).format(
            w=self.width,
            h=self.height,
            id=self.ident,
            title=self.title,
            description=self.description,
            grid=self._grid(),
            marks=Markup().join(self._drawn(mark) for mark in self.marks),
        )

    def _grid(self) -> Markup:
        parts = []
        bottom, right = self.height - self.bottom, self.width - self.right
        for mark in self.x.marks:
            px, _ = self.position(mark, self.y.low)
            parts.append(
                Markup(
                    '<path class="grid" d="M{x},{top}V{bottom}"/>'
                    '<text class="tick" x="{x}" y="{below}" text-anchor="middle">{words}</text>'
                ).format(x=px, top=self.top, bottom=bottom, below=bottom + 16, words=self.x.words(mark))
            )
        for mark in self.y.marks:
            _, py = self.position(self.x.low, mark)
            parts.append(
                Markup(
                    '<path class="grid" d="M{left},{y}H{right}"/>'
                    '<text class="tick" x="{before}" y="{middle}" text-anchor="end">{words}</text>'
                ).format(
                    left=self.left,
                    right=right,
                    y=py,
                    before=self.left - 7,
                    middle=py + 4,
                    words=self.y.words(mark),
                )
            )
        middle_x, middle_y = (self.left + right) / 2, (self.top + bottom) / 2
        parts.append(
            Markup(
                '<text class="axis" x="{x}" y="{below}" text-anchor="middle">{x_label}</text>'
                '<text class="axis" transform="translate(13 {y}) rotate(-90)" text-anchor="middle">{y_label}</text>'
            ).format(
                x=middle_x, below=self.height - 8, x_label=self.x.label, y=middle_y, y_label=self.y.label
            )
        )
        return Markup().join(parts)


def series(index: int) -> str:
    """The style class of the n-th curve."""
    return f"series-{index % N_COLOURS}"


N_MARKS = 5


def nice_marks(low: float, high: float) -> tuple[float, ...]:
    """About `N_MARKS` round numbers that enclose `low` and `high`, in steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / N_MARKS
    power = 10.0 ** _floor_log10(raw)
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= raw * 0.999)
    first, last = _floor(low / step), -_floor(-high / step)
    return tuple(round(i * step, 10) for i in range(first, last + 1))


def _floor(value: float) -> int:
    nearest = round(value)
    return nearest if abs(value - nearest) < 1e-9 else int(value // 1)


def _floor_log10(value: float) -> int:
    from math import floor, log10

    return floor(log10(value))


def share_scale(figures: Iterable[PublishedFigure | None]) -> tuple[float, float]:
    """A scale for shares that ends at 1 and starts at the tenth below the lowest interval."""
    lows = [
        figure.value if figure.low is None else figure.low
        for figure in figures
        if figure and figure.value is not None
    ]
    return min(max(_floor(min(lows, default=0.5) * 10) / 10, 0.0), 0.9), 1.0


def whisker(
    value: float,
    low: float | None,
    high: float | None,
    *,
    scale: tuple[float, float],
    reference: float | None = None,
) -> Markup:
    """A dot with its interval on a common scale, for a table cell; decoration only, since the numbers are beside it."""
    start, stop = scale

    def at(number: float) -> float:
        return round(4 + 132 * (min(max(number, start), stop) - start) / (stop - start), 1)

    parts = [Markup('<path class="grid" d="M4,10H136"/>')]
    if reference is not None:
        parts.append(Markup('<path class="reference" d="M{},1V19"/>').format(at(reference)))
    if low is not None and high is not None:
        parts.append(Markup('<path class="interval" d="M{},10H{}"/>').format(at(low), at(high)))
    parts.append(Markup('<circle class="point" cx="{}" cy="10" r="3.5"/>').format(at(value)))
    return Markup('<svg class="whisker" viewBox="0 0 140 20" aria-hidden="true">{}</svg>').format(
        Markup().join(parts)
    )

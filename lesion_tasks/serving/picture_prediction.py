"""What a model says of one picture: one row, wherever it is shown or stored. Its fields are the columns of tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
    import pyarrow as pa

PROBABILITIES = "probabilities"  # the field that has a column for each class
PROBABILITY_PREFIX = "p_"
SHOWN_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class PicturePrediction:
    """A picture's prediction, or the reason why it has none."""

    image: str  # the key: as its source names it
    sha256: str | None  # of the file's bytes; None where they could not be read, or were never a file
    prediction: str | None  # a class; None where the picture could not be read
    probabilities: Mapping[str, float] | None  # by class, 0 to 1, sum 1
    threshold: float | None  # of the positive class; None for more than two classes
    model: str  # the training
    model_sha256: str  # of its model file
    reason: str | None  # why there is no prediction, in a word; None where there is one
    detail: str | None  # and in a sentence
    possible: str | None = None  # the classes of its conformal set, separated by commas
    answer: str | None = None  # a class; None where the model does not know
    doubt: str | None = None  # why it does not know
    strangeness: float | None = None  # above 1: out of distribution; None where that is not measured

    def as_json(self) -> dict[str, Any]:
        """What people are shown: probabilities in six digits, and no reasons where there are none."""
        said: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.probabilities is not None:
            said[PROBABILITIES] = {name: round(p, SHOWN_DIGITS) for name, p in self.probabilities.items()}
        return {name: value for name, value in said.items() if value is not None or name == "threshold"}

    def as_row(self, classes: Sequence[str]) -> dict[str, Any]:
        """One row of a table with the columns of `table_schema`."""
        said: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == PROBABILITIES:
                said |= {f"{PROBABILITY_PREFIX}{name}": (value or {}).get(name) for name in classes}
            else:
                said[field.name] = value
        return said


def table_schema(classes: Sequence[str]) -> "pa.Schema":
    """The columns of a table of predictions as Arrow types, in the order of the fields."""
    import pyarrow as pa

    columns: list[tuple[str, pa.DataType]] = []
    for name, hint in get_type_hints(PicturePrediction).items():
        if name == PROBABILITIES:
            columns += [(f"{PROBABILITY_PREFIX}{one}", pa.float64()) for one in classes]
        else:
            columns.append((name, pa.string() if hint in (str, str | None) else pa.float64()))
    return pa.schema(columns)

"""The size and shape in which a model sees pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# How a picture that is not square becomes square. "squash" is the paper's: both sides are scaled to fit, and a 4:3
# picture loses a quarter of its width. "pad" keeps the shape and adds black. "crop" keeps the shape and the middle.
ASPECTS = ("squash", "pad", "crop")


@dataclass(frozen=True, order=True)
class InputSize:
    """A square with sides of `side_px` pixels, and the policy (one of `ASPECTS`) by which a picture becomes one."""

    side_px: int
    aspect: str = "squash"

    def __post_init__(self) -> None:
        if self.side_px < 1:
            raise ValueError(f"side_px {self.side_px}: expected at least 1")
        if self.aspect not in ASPECTS:
            raise ValueError(f"aspect {self.aspect!r}: expected one of {', '.join(ASPECTS)}")

    def __str__(self) -> str:
        """Its name in keys and rows, such as 128-squash."""
        return f"{self.side_px}-{self.aspect}"

    @classmethod
    def parse(cls, name: str) -> "InputSize":
        """The size that a name such as 128-squash stands for."""
        side, _, aspect = name.partition("-")
        return cls(int(side), aspect)

    @classmethod
    def of_recipe(cls, recipe: Mapping[str, Any]) -> "InputSize | None":
        """The input size of a stored recipe; None if it uses no pictures."""
        if recipe["side_px"] is None:
            return None
        # Recipes from before the aspect was a choice do not name it: their pictures were squashed.
        return cls(recipe["side_px"], recipe.get("aspect", "squash"))

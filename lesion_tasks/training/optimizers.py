"""A recipe of learning -> its optimizer: AdamW with a schedule, rates by group, and averages of the weights."""

from collections.abc import Sequence
from typing import Any

import keras

from lesion_tasks.catalog import Learning


class AveragingAdamW(keras.optimizers.AdamW):
    """AdamW whose averages of the weights enter the model when asked, and not at the end of every `fit`.

    `slow` are the variables that learn, and decay, at `slow_share` of the rate, known by their place among the
    trainable ones.
    """

    def __init__(self, *, slow: Sequence[int] = (), slow_share: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.slow, self.slow_share = frozenset(slow), slow_share

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One step of AdamW at the rate of the variable's group."""
        super().update_step(gradient, variable, learning_rate * self._share(variable))

    def _share(self, variable: Any) -> float:
        """The rate of a variable's group as a share of the head's."""
        return self.slow_share if self._get_variable_index(variable) in self.slow else 1.0

    def _apply_weight_decay(self, variables: Sequence[keras.Variable]) -> None:
        """Decoupled decay goes by the rate: each group decays at its own."""
        decay: float = self.weight_decay  # type: ignore[has-type]
        for share in dict.fromkeys((1.0, self.slow_share)):
            self.weight_decay = decay * share
            super()._apply_weight_decay([v for v in variables if self._share(v) == share])
        self.weight_decay = decay

    def finalize_variable_values(self, var_list: Sequence[keras.Variable]) -> None:
        """Nothing: learning goes on from the weights, not from their averages."""

    def put_into(self, variables: Sequence[keras.Variable]) -> None:
        """Replace the trainable variables by their averages."""
        super().finalize_variable_values(variables)


def make_optimizer(
    how: Learning,
    model: keras.Model,
    *,
    learning_rate: float,
    n_steps: int,
    backbone: keras.Model | None = None,
) -> AveragingAdamW:
    """The optimizer of a stage of `n_steps` steps; `backbone` is the part of the model that may have its own rate."""
    inner = {id(variable) for variable in (backbone.variables if backbone is not None else [])}
    optimizer = AveragingAdamW(
        learning_rate=_rate(how, learning_rate, n_steps),
        weight_decay=how.weight_decay,
        use_ema=how.ema_momentum > 0,
        ema_momentum=how.ema_momentum or 0.99,  # Keras asks for a number either way
        slow=[i for i, variable in enumerate(model.trainable_variables) if id(variable) in inner],
        slow_share=how.backbone_rate_share,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def _rate(
    how: Learning, rate: float, n_steps: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    if how.schedule == "constant" and not how.warmup_share:
        return rate
    n_warm = round(how.warmup_share * n_steps)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if n_warm else rate,
        warmup_target=rate if n_warm else None,
        warmup_steps=n_warm,
        decay_steps=max(1, n_steps - n_warm),
        alpha=0.0 if how.schedule == "cosine" else 1.0,
    )

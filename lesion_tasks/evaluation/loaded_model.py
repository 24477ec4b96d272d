"""A training's model as it was loaded -> what it says of examples and sees in them, in one look at each picture."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras
    import numpy as np
    import pandas as pd

    from lesion_tasks.evaluation.inference_graph import InferenceGraph
    from lesion_tasks.training.examples import Examples


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A stored model, and the graph that answers for it: the same that serves."""

    keras_model: "keras.Model"
    classes: tuple[str, ...]
    tells_features: bool = False  # whether the graph tells its features too, of which doubt is made

    @cached_property
    def _graph(self) -> "InferenceGraph":
        from lesion_tasks.evaluation.inference_graph import inference_graph
        from lesion_tasks.evaluation.model_features import with_features

        watched = with_features(self.keras_model) if self.tells_features else None
        return inference_graph(watched or self.keras_model)

    def predict(
        self,
        examples: "Examples",
        *,
        order: "np.ndarray | None" = None,
        batch_images: int | None = None,
        see: "Callable[[list[np.ndarray]], None] | None" = None,
    ) -> "pd.DataFrame":
        """Score examples: a frame indexed by `isic_id` with one float64 column of probabilities for each class.

        `order` (row numbers) selects which examples are scored, and in which order; the result is keyed either way.
        `see` is given the features of each batch in that order, for each depth float32 (b, C).
        """
        import numpy as np

        from lesion_tasks.training.predict_examples import BATCH_IMAGES, probabilities_by_id

        rows = np.arange(len(examples)) if order is None else order
        length, said = batch_images or BATCH_IMAGES, []
        for start in range(0, len(rows), length):
            raw, *features = self._graph(examples.inputs(rows[start : start + length]))
            said.append(raw)
            if examples.pixels is not None:
                examples.pixels.release()  # each picture is looked at once, and none need stay
            if see is not None:
                see(features)
        return probabilities_by_id(said, examples.isic_ids[rows], self.classes)

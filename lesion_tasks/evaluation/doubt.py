"""A training and its val -> what tells where its model does not know: conformal sets, and how strange a picture is.

It lies in the bucket beside the report, as one object that a prediction needs together with the model; its digest is in
the evaluation's document, and in `champion.json`. Its key holds the digest: an evaluation that finds something else
leaves what was found before, which a champion is served with until the new one is published.
"""

import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lesion_tasks import UnusableInputError
from lesion_tasks.bucket import Bucket, get_verified
from lesion_tasks.catalog import InputSize
from lesion_tasks.catalog.recipe import learns_features
from lesion_tasks.evaluation.loaded_model import LoadedModel
from lesion_tasks.evaluation.subject import EvaluationSubject
from lesion_tasks.metrics.doubt_document import Doubt, DoubtFigures

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from lesion_tasks.metrics.conformal import ConformalSets
    from lesion_tasks.metrics.novelty import Novelty
    from lesion_tasks.metrics.scored import Scored
    from lesion_tasks.training.examples import Examples

# Pictures of val on which the measure of strange pictures is fitted; of more, as many at random.
MAX_FITTED = 4_096
# Why a prediction is not an answer.
STRANGE = "out of distribution"
SEVERAL = "several classes are possible"
NONE_FITS = "no class fits"
DISAGREES = "the set and the threshold disagree"
UNMEASURED = "not measured: evaluate the training again"


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredDoubt:
    """Where a model does not know, as it was fitted on val; `novelty` is None where nothing is called strange."""

    sets: "ConformalSets"
    novelty: "Novelty | None"
    novelty_reason: str | None = None  # why nothing is; not stored


@dataclass(frozen=True, kw_only=True)
class DoubtOf:
    """What is doubtful about one prediction."""

    possible: list[str]  # the conformal set
    answer: str | None
    reason: str | None  # why there is no answer
    strangeness: float | None  # above 1: out of distribution


@dataclass(frozen=True, kw_only=True)
class FittedDoubt:
    """What was fitted on val, and the model that can be asked about other pictures."""

    subject: EvaluationSubject
    stored: StoredDoubt
    model: LoadedModel
    val: "Scored"

    def predict(
        self, examples: "Examples", *, order: "np.ndarray | None" = None
    ) -> "tuple[pd.DataFrame, dict[str, float] | None]":
        """Score examples as `LoadedModel.predict` does, and say how strange each picture is, in one look at them.

        None in the place of the second where strangeness is not measured.
        """
        novelty = self.stored.novelty
        if novelty is None:
            return self.model.predict(examples, order=order), None
        scores: list[float] = []
        found = self.model.predict(
            examples, order=order, see=lambda features: scores.extend(novelty.scores(features).tolist())
        )
        return found, dict(zip(found.index, scores, strict=True))

    def figures(self, other: "Scored", strangeness: "Mapping[str, float] | None") -> DoubtFigures:
        """What the model does not know of test or of a cohort; `strangeness` of its pictures, as `predict` says it."""
        import numpy as np

        from lesion_tasks.metrics.doubts import doubt_figures

        novelty, is_strange = self.stored.novelty, None
        if novelty is not None and strangeness is not None:
            scores = np.array([strangeness[isic_id] for isic_id in other.isic_ids], dtype=np.float64)
            is_strange = novelty.is_strange(scores)
        threshold = called_at(self.subject, other)
        return doubt_figures(
            other, self.stored.sets, val=self.val, threshold=threshold, is_strange=is_strange
        )


def why_nothing_is_strange(subject: EvaluationSubject) -> str | None:
    """Why no picture is called strange, whatever it shows; None if some may be."""
    recipe = subject.training.recipe
    if InputSize.of_recipe(recipe) is None:
        return "the model sees no pictures"
    if recipe.get("n_folds") and learns_features(recipe):
        # Their distances to it would be smaller than those of new pictures.
        return "its members learned from the pictures of val"
    return None


def fit_doubt(
    subject: EvaluationSubject,
    model: LoadedModel,
    val: "Scored",
    features: "Sequence[np.ndarray]",
    isic_ids: "np.ndarray",
) -> FittedDoubt:
    """Fit everything on val; `features` of some of its pictures, for each depth (n, C), and the ids of these."""
    from lesion_tasks.metrics.conformal import fit_sets
    from lesion_tasks.metrics.novelty import NoNoveltyError, fit_novelty

    sets, reason, novelty = fit_sets(val), why_nothing_is_strange(subject), None
    if reason is None and not features:
        reason = "the model tells no features"
    if reason is None:
        known = subject.subset("val").set_index("isic_id")["group_id"]
        try:
            novelty = fit_novelty(features, known.loc[isic_ids].to_numpy(dtype=str))
        except NoNoveltyError as error:
            reason = str(error)
    stored = StoredDoubt(sets=sets, novelty=novelty, novelty_reason=reason)
    return FittedDoubt(subject=subject, stored=stored, model=model, val=val)


def called_at(subject: EvaluationSubject, scored: "Scored") -> float | None:
    """The threshold at which a model calls the positive class; None: the most likely class."""
    return subject.training.threshold if scored.is_binary else None


def store_doubt(bucket: Bucket, fitted: FittedDoubt, test: DoubtFigures) -> Doubt:
    """Write the object; returns what the document says of it."""
    from lesion_tasks.metrics.novelty import NOVELTY_RATE

    doubt = fitted.stored
    data, sets = to_bytes(doubt), doubt.sets
    sha256 = hashlib.sha256(data).hexdigest()
    key = f"{fitted.subject.folder}/doubt-{sha256[:12]}.npz"
    bucket.put(key, data)
    return Doubt(
        error_rate=sets.error_rate,
        bounds={
            name: bound if math.isfinite(bound) else None
            for name, bound in zip(sets.class_names, sets.bounds, strict=True)
        },
        n_groups=dict(zip(sets.class_names, sets.n_groups, strict=True)),
        novelty_rate=NOVELTY_RATE,
        novelty_reason=doubt.novelty_reason,
        object_key=key,
        sha256=sha256,
        test=test,
    )


def to_bytes(doubt: StoredDoubt) -> bytes:
    """One object: arrays in NumPy's own format, without pickles."""
    import numpy as np

    sets, novelty = doubt.sets, doubt.novelty
    facts = {
        "error_rate": sets.error_rate,
        "class_names": sets.class_names,
        "n_groups": sets.n_groups,
        "rate": novelty.rate if novelty else None,
        "units": [depth.unit for depth in novelty.depths] if novelty else [],
    }
    arrays = {
        "bounds": np.array(sets.bounds),
        "facts": np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8),
    }
    for index, depth in enumerate(novelty.depths if novelty else ()):
        arrays |= {f"mean_{index}": depth.mean, f"whitening_{index}": depth.whitening}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # its stub takes the names for options
    return buffer.getvalue()


def from_bytes(data: bytes) -> StoredDoubt:
    """The inverse of `to_bytes`."""
    import numpy as np

    from lesion_tasks.metrics.conformal import ConformalSets
    from lesion_tasks.metrics.novelty import Depth, Novelty

    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        facts = json.loads(stored["facts"].tobytes())
        depths = tuple(
            Depth(mean=stored[f"mean_{index}"], whitening=stored[f"whitening_{index}"], unit=unit)
            for index, unit in enumerate(facts["units"])
        )
        return StoredDoubt(
            sets=ConformalSets(
                error_rate=facts["error_rate"],
                class_names=tuple(facts["class_names"]),
                bounds=tuple(stored["bounds"].tolist()),
                n_groups=tuple(facts["n_groups"]),
            ),
            novelty=Novelty(rate=facts["rate"], depths=depths) if depths else None,
        )


def read_doubt(bucket: Bucket, key: str, sha256: str, classes: Sequence[str]) -> StoredDoubt:
    """Read it, held against its digest and the classes of its model."""
    found = from_bytes(get_verified(bucket, key, sha256, kind="doubt"))
    if found.sets.class_names != tuple(classes):
        raise UnusableInputError(
            f"{key}: its classes are {', '.join(found.sets.class_names)}, expected the model's: {', '.join(classes)}"
        )
    return found


def doubts_of(
    doubt: StoredDoubt,
    probabilities: "np.ndarray",
    features: "Sequence[np.ndarray] | None",
    threshold: float | None,
) -> list[DoubtOf]:
    """What is doubtful about n predictions (n, K), from the features of their pictures, (n, C) at each depth."""
    import numpy as np

    from lesion_tasks.metrics.scored import called

    sets, names = doubt.sets.sets(probabilities), doubt.sets.class_names
    calls = called(probabilities, threshold)
    scores, is_strange = None, np.zeros(len(probabilities), dtype=bool)
    if doubt.novelty is not None and features is not None:
        scores = np.asarray(doubt.novelty.scores(features), dtype=np.float64)
        is_strange = doubt.novelty.is_strange(scores)
    found = []
    for row, inside in enumerate(sets):
        possible = [name for name, is_in in zip(names, inside, strict=True) if is_in]
        reason = _why_no_answer(possible, names[calls[row]], is_strange=bool(is_strange[row]))
        found.append(
            DoubtOf(
                possible=possible,
                answer=None if reason else possible[0],
                reason=reason,
                strangeness=None if scores is None else float(scores[row]),
            )
        )
    return found


def _why_no_answer(possible: Sequence[str], called: str, *, is_strange: bool) -> str | None:
    if is_strange:
        return STRANGE
    if len(possible) != 1:
        return SEVERAL if possible else NONE_FITS
    return None if possible[0] == called else DISAGREES


def entry_of(document: Mapping[str, object]) -> dict[str, str | None]:
    """Where the doubt of an evaluated training is, from its document, for `champion.json`; null if there is none."""
    said = document.get("doubt")
    known = said if isinstance(said, Mapping) else {}
    return {"doubt_key": known.get("object_key"), "doubt_sha256": known.get("sha256")}

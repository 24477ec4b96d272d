"""The names of figures, in the order a report shows them, each with the sentence that explains it. Data only."""

from __future__ import annotations

# Binary tasks: key in metrics.json -> what it is. Higher is better unless the text says otherwise.
BINARY_FIGURES: dict[str, str] = {
    "auc": "Chance that a random positive scores above a random negative (ties count half).",
    "average_precision": "Average precision; the prevalence is chance level.",
    "partial_auc_above_80_sensitivity": "ISIC 2024: area between the ROC curve and sensitivity 0.8; at most 0.2.",
    "auc_above_80_sensitivity": "ISIC 2018 scorer: area under the ROC curve where sensitivity is 0.8 or more.",
    "sensitivity_at_90_specificity": "Highest sensitivity at a specificity of at least 0.90.",
    "sensitivity_at_95_specificity": "Highest sensitivity at a specificity of at least 0.95.",
    "specificity_at_90_sensitivity": "Highest specificity at a sensitivity of at least 0.90.",
    "specificity_at_95_sensitivity": "Highest specificity at a sensitivity of at least 0.95.",
    "sensitivity": "Share of positives classified as positive at the stored threshold.",
    "specificity": "Share of negatives classified as negative at the stored threshold.",
    "balanced_accuracy": "Mean of sensitivity and specificity at the stored threshold.",
    "accuracy": "Share of images classified correctly at the stored threshold.",
    "ppv": "Share of positives among those classified as positive, at this subset's prevalence.",
    "npv": "Share of negatives among those classified as negative, at this subset's prevalence.",
    "brier_score": "Mean squared distance of P(positive) from the outcome; lower is better.",
    "brier_skill": "1 - Brier score / Brier score of always predicting the prevalence; 0 is no skill.",
    "log_loss": "Mean negative log-likelihood; lower is better.",
    "calibration_slope": "1 is ideal; below 1 the scores are too extreme, above 1 too moderate.",
    "calibration_intercept": "Calibration in the large: 0 is ideal; below 0 the scores are too high on average.",
    "expected_calibration_error": "Mean distance of score and outcome over ten bins; 0 is ideal.",
}
# `ppv_at_prevalence_<p>` and `npv_at_prevalence_<p>` follow for every stated prevalence.

# More than two classes; the most likely class is the prediction. `by_class` holds recall, auc and average_precision.
MULTICLASS_FIGURES: dict[str, str] = {
    "macro_auc": "Mean over classes of the AUC of one class against the rest.",
    "balanced_accuracy": "Mean over classes of the recall.",
    "accuracy": "Share of images classified correctly.",
    "macro_average_precision": "Mean over classes of the average precision of one class against the rest.",
    "brier_score": "Mean over images of the squared distance of the probabilities from the outcome; lower is better.",
    "log_loss": "Mean negative log-likelihood; lower is better.",
    "expected_calibration_error": "Mean distance of top probability and hit rate over ten bins; lower is better.",
}

# The figures of one entry of `by_class`; in a binary task only recall and precision.
CLASS_FIGURES: dict[str, str] = {
    "recall": "Share of the class's images that are classified as it.",
    "precision": "Share of the images classified as the class that belong to it.",
    "auc": "AUC of the class against the rest.",
    "average_precision": "Average precision of the class against the rest.",
}

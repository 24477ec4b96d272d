"""Whether a watch that finds something beyond its bound trains the champion's variant again, as its form says it."""

AS_SET = "as_set"
RETRAININGS = {
    AS_SET: "As the setting LESION_RETRAINING says",
    "when_changed": "When something passed its bound",
    "never": "Never: people are told, and decide",
}

"""Whether a run of `promote_model` asks a person, the words in which its form says so, and who decides without one."""

UNNAMED = "unnamed person"
RULE = "rule"  # who decides where no person does: the gates
MAX_REASON = 500  # characters of why a refusal is overridden: it stands in the question
AS_SET = "as_set"
APPROVALS = {
    AS_SET: "As the setting LESION_APPROVAL says",
    "always": "Always, before anything is decided",
    "never": "Never: the gates decide",
}

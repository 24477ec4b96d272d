"""What is known of some images alone: the columns whose missing values are counted, wherever they are. Data only."""

# Other lists of columns are choices, each made where its question is: what defines slices (`metrics.scored`), what a
# probe sees, what is compared. A test holds that they name columns.
MAY_BE_MISSING = (
    "age_years", "sex", "size_mm", "anatom_site", "fitzpatrick_skin_type", "diagnosis_confirm_type", "patient_id",
    "lesion_id",
)  # fmt: skip

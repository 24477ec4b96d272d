"""What four reporting guidelines ask, each item once, and who can answer it. Data only.

CLEAR Derm (Daneshjou et al. 2022, doi:10.1001/jamadermatol.2021.4915), STARD-AI (Sounderajah et al. 2025,
doi:10.1038/s41591-025-03953-8), TRIPOD+AI (Collins et al. 2024, doi:10.1136/bmj-2023-078378), CLAIM (Tejani et al.
2024, doi:10.1148/ryai.240300). Items are in our words and carry no numbers: before a submission, the guideline's
own form decides.
"""

GUIDELINES = {"D": "CLEAR Derm", "S": "STARD-AI", "T": "TRIPOD+AI", "C": "CLAIM"}

# Under the title of each section: the guidelines that ask | the function of `answers` that may know, "in part" if a
# person completes the answer, - if only a person can answer | what is asked.
ITEMS = """
# Aim
DSTC | -                       | Intended use, target population and place in care
DSTC | question                | The question put to the model, and its classes
DST  | -                       | Known health inequalities between groups, and how they bear on the model
STC  | design                  | Design: prospective or retrospective; development, validation or both
# Data
DSTC | sources                 | Source of the images, and their licences
STC  | dates in part           | Dates: when the data were gathered and fixed
DSTC | funnel                  | Who was included, who was left out and why, with numbers
DSC  | image_types             | Image types
DSC  | -                       | Devices, sites and how the images were taken
DC   | artefacts in part       | Artefacts (ink, rulers, hair, altered images)
DSTC | preprocessing           | Preprocessing of the images
SC   | -                       | Removal of identifying information
DTC  | metadata                | Patient-level information that comes with each image
DT   | skin_types              | Skin tones that the data cover
STC  | missing                 | Missing values, and what is done about them
D    | artefacts               | Synthetic images, where any were used
# Reference standard
DSTC | label_source            | What the label is and where it comes from
DS   | histopathology          | Share of diagnoses confirmed by histopathology
STC  | -                       | Who labelled, how well they agree, and whether they were blind to the model
# Partitions
DSTC | partitions              | How images were assigned to training, validation and test
DSTC | overlap                 | The level at which the partitions are disjoint, and the proof
DSTC | sizes                   | Size of each partition and its balance of classes
STC  | precision in part       | Why the sample is large enough
DSTC | characteristics in part | Patients, sexes, ages and sites by partition
DSTC | other_data in part      | External test set
# Model
DTC  | architecture            | Architecture, inputs and outputs
TC   | weights                 | Initial weights
DTC  | training                | Training: augmentation, hyperparameters, stopping rule
TC   | selection               | How the final model was chosen
STC  | versions in part        | Software, versions and hardware
DT   | imbalance               | How class imbalance was handled
STC  | threshold               | The threshold, how it was chosen and why
# Results
DSTC | performance             | Measures of performance, with intervals and the method behind them
SC   | confusion               | Confusion matrix
TC   | calibration             | Calibration
DSTC | subgroups               | Performance in subgroups, fairness
DC   | robustness              | Robustness: checks against shortcuts and faults
DSC  | comparison in part      | Comparison with other models or with clinicians
DC   | explanations            | What the model looks at
DC   | failures in part        | Analysis of failures
TC   | openings                | How often the test set was used
# Use
DSTC | -                       | Limitations, and what they mean for patients and clinicians
DST  | -                       | Harm from errors, and from images unlike those of training
DSTC | availability in part    | Availability of data, code and model
# Study
STC  | -                       | Ethical approval
STC  | -                       | Registration and protocol
STC  | -                       | Funding and conflicts of interest
T    | -                       | Involvement of patients and public
"""

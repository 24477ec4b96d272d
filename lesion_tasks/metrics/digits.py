"""To how many digits figures are told apart where one of them decides."""

AUC_DIGITS = 3  # where AUC on val decides, two that are equal to this many digits leave it to the loss

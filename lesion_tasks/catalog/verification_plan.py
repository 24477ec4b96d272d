"""How much of the bucket is checked against the database at a time. Data only."""

# A part each week: every object is read once a quarter.
N_VERIFICATION_PARTS = 13

"""When the bucket is checked against the database, and how much of it at a time. Data only."""

# A part each week: every object is read once a quarter.
N_VERIFICATION_PARTS = 13
VERIFICATION_CRON = "30 4 * * 6"  # UTC; apart from ingestion and training, which use the same disks

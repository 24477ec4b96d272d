"""The pools of Airflow: how many tasks train at once, and how many send requests to the archive. Data only."""

# Requests at once: as many as the archive's own client makes. If tasks of a pool share them, each gets its part.
N_CONNECTIONS = 10
# Pools of Airflow: name -> (slots, purpose).
ARCHIVE_POOL, GPU_POOL = "archive", "gpu"
POOLS = {
    GPU_POOL: (1, "One training at a time"),
    ARCHIVE_POOL: (2, "Tasks that send requests to the archive, few at a time out of politeness"),
}
# Into how many tasks wanted files are divided, unless a form says so.
FILES_PER_RANGE, MAX_RANGES = 5_000, 16
CONNECTIONS_PER_TASK = N_CONNECTIONS // POOLS[ARCHIVE_POOL][0]

"""Keyed predictions -> figures with intervals, integrity verdicts, comparisons. Pure: no database, no bucket."""

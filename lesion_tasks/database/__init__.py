"""Postgres, the truth: connections, bulk rows, tables with their triggers, migrations."""

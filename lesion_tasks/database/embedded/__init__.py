"""A Postgres server from a wheel, for where the settings name no database."""

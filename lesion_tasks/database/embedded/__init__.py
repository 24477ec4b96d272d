"""A Postgres server from a wheel, used when the settings name no database."""

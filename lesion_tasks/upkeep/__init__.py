"""The bucket checked against the database: what is missing or altered, and what of it can be made again."""

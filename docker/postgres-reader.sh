#!/usr/bin/env bash
# The role by which the UI's pages read. Runs after postgres-init.sh on an empty data folder, and can be run again:
#   docker compose exec postgres bash /docker-entrypoint-initdb.d/reader.sh
# What it may read is granted by its database's owner whenever the services start.
set -euo pipefail
psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --set "password=$LESIONS_READER_DB_PASSWORD" <<'SQL'
SELECT 'CREATE ROLE lesions_reader' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'lesions_reader') \gexec
ALTER ROLE lesions_reader LOGIN PASSWORD :'password';
ALTER ROLE lesions_reader SET default_transaction_read_only = on;
SQL

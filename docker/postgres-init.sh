#!/usr/bin/env bash
# Two databases under two roles: neither service can read the other's rows. Runs once, on an empty data folder.
set -euo pipefail
for name in airflow lesions; do
  variable="${name^^}_DB_PASSWORD"
  psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --set "name=$name" --set "password=${!variable}" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE CONNECT ON DATABASE :"name" FROM PUBLIC;
SQL
done

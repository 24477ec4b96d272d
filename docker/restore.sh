#!/usr/bin/env bash
# restore.sh FOLDER: what backup.sh wrote, into the running stack. What the databases hold now is replaced.
# .env must hold the same AIRFLOW_FERNET_KEY as then: connections that were made in the UI are encrypted with it.
set -euo pipefail
folder=${1:?usage: restore.sh FOLDER}
services=$(docker compose ps --services | grep -vxE 'postgres|redis|s3|init|archive')
docker compose exec -T worker python -m lesion_tasks.deployment.bucket_tar load < "$folder/bucket.tar"
# shellcheck disable=SC2086 # one word for each service
docker compose stop $services
for name in airflow lesions; do
  docker compose exec -T postgres sh -c \
    'PGPASSWORD="$POSTGRES_PASSWORD" exec pg_restore --host 127.0.0.1 --username postgres --clean --if-exists \
       --exit-on-error --single-transaction --dbname "$0"' "$name" < "$folder/$name.dump"
done
# Migrations bring an older copy to the present code before any of it runs.
docker compose run --rm --no-deps init
# shellcheck disable=SC2086
docker compose start $services

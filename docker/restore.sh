#!/usr/bin/env bash
# restore.sh FOLDER: what backup.sh wrote, into the running stack. The current content of the databases is replaced.
# .env must hold the same AIRFLOW_FERNET_KEY as at the backup: connections created in the UI are encrypted with it.
# Nothing writes meanwhile: every service except those that hold data is stopped first. If a step fails they stay
# stopped, and running it again is safe.
set -euo pipefail
folder=${1:?usage: restore.sh FOLDER}
for name in airflow.dump lesions.dump bucket.tar; do
  [[ -s $folder/$name ]] || { echo "restore.sh: $folder/$name is missing or empty, expected what backup.sh wrote" >&2; exit 1; }
done
services=$(docker compose ps --services | grep -vxE 'postgres|redis|s3|s3-accounts|init|archive' || true)
[[ -n $services ]] || { echo "restore.sh: the stack is not running, expected: docker compose up --wait" >&2; exit 1; }
# shellcheck disable=SC2086 # one word for each service
docker compose stop $services
# Stopping them is not enough: a service that was started by hand and is not in the list above would write too.
running=$(docker compose ps --services --status running | grep -vxE 'postgres|redis|s3|archive' || true)
[[ -z $running ]] || { echo "restore.sh: still running: $running, expected nothing that writes" >&2; exit 1; }
docker compose run --rm --no-deps -T --entrypoint python init \
  -m lesion_tasks.deployment.bucket_tar load < "$folder/bucket.tar"
for name in airflow lesions; do
  docker compose exec -T postgres sh -c \
    'PGPASSWORD="$POSTGRES_PASSWORD" exec pg_restore --host 127.0.0.1 --username postgres --clean --if-exists \
       --exit-on-error --single-transaction --dbname "$0"' "$name" < "$folder/$name.dump"
done
# Migrations bring an older backup to the current version before any other code runs.
docker compose run --rm --no-deps -T init < /dev/null
# Decisions made after the backup are gone from the database: champion.json must no longer name them.
docker compose run --rm --no-deps -T --entrypoint python worker -m lesion_tasks publish < /dev/null
# shellcheck disable=SC2086
docker compose start $services

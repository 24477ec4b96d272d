#!/usr/bin/env bash
# restore.sh FOLDER: what backup.sh wrote, into the running stack. What the databases hold now is replaced.
# .env must hold the same AIRFLOW_FERNET_KEY as then: connections that were made in the UI are encrypted with it.
# Nothing writes meanwhile: every service but those that hold data is stopped first. Where a step fails they stay
# stopped, and running it again is safe.
set -euo pipefail
folder=${1:?usage: restore.sh FOLDER}
for name in airflow.dump lesions.dump bucket.tar; do
  [[ -s $folder/$name ]] || { echo "restore.sh: $folder/$name is missing or empty, expected what backup.sh wrote" >&2; exit 1; }
done
services=$(docker compose ps --services | grep -vxE 'postgres|redis|s3|init|archive' || true)
[[ -n $services ]] || { echo "restore.sh: nothing runs that could be restored, expected: docker compose up --wait" >&2; exit 1; }
# shellcheck disable=SC2086 # one word for each service
docker compose stop $services
# Stopped is not enough: a service that was started by hand outside of this project's list would write too.
running=$(docker compose ps --services --status running | grep -vxE 'postgres|redis|s3|archive' || true)
[[ -z $running ]] || { echo "restore.sh: still running: $running, expected nothing that writes" >&2; exit 1; }
docker compose run --rm --no-deps -T --entrypoint python worker \
  -m lesion_tasks.deployment.bucket_tar load < "$folder/bucket.tar"
for name in airflow lesions; do
  docker compose exec -T postgres sh -c \
    'PGPASSWORD="$POSTGRES_PASSWORD" exec pg_restore --host 127.0.0.1 --username postgres --clean --if-exists \
       --exit-on-error --single-transaction --dbname "$0"' "$name" < "$folder/$name.dump"
done
# Migrations bring an older copy to the present code before any of it runs.
docker compose run --rm --no-deps -T init < /dev/null
# What was decided after the backup is gone from the database: champion.json must not go on naming it.
docker compose run --rm --no-deps -T --entrypoint python worker -m lesion_tasks publish < /dev/null
# shellcheck disable=SC2086
docker compose start $services

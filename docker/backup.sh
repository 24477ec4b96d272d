#!/usr/bin/env bash
# backup.sh FOLDER: both databases and the bucket of the running stack, into FOLDER.
# Databases first: a row names only objects that are already in the bucket, so the copy of the bucket has them all.
# COMPOSE_FILE, COMPOSE_ENV_FILES and COMPOSE_PROJECT_NAME are docker compose's own.
set -euo pipefail
umask 077
folder=${1:?usage: backup.sh FOLDER}
mkdir -p "$folder"
for name in airflow lesions; do
  docker compose exec -T postgres sh -c \
    'PGPASSWORD="$POSTGRES_PASSWORD" exec pg_dump --host 127.0.0.1 --username postgres --format custom "$0"' "$name" \
    > "$folder/$name.part"
  mv "$folder/$name.part" "$folder/$name.dump"
done
docker compose run --rm --no-deps -T --entrypoint python init -m lesion_tasks.deployment.bucket_tar save > "$folder/bucket.part"
mv "$folder/bucket.part" "$folder/bucket.tar"
ls -l "$folder"

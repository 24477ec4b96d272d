"""Preparing, backing up and restoring the services of a team: run by docker compose, Helm and docker/*.sh."""

"""What prepares, backs up and restores the services of a team: run by docker compose, Helm and docker/*.sh."""

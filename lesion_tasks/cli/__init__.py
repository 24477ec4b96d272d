"""`lesion`: each step of the path as a command, without Airflow."""

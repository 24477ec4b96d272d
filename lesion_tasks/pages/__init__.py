"""The product's pages inside Airflow: the state of everything, read only. What they change, Airflow's own API does."""

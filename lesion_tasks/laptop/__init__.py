"""A laptop instead of a cluster: what the steps and DAGs need, started without installing anything by hand.

    processes    a command -> a service that outlives its starter, and that `stop` finds again
    airflow      the checkout -> Airflow's four processes on the embedded Postgres
    demo         settings -> all of it, and one run from the archive to a champion

Everything is kept in one home folder; deleting it removes everything. Production uses none of this.
"""

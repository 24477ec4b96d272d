"""A laptop instead of a cluster: what the steps and DAGs need, started without installing anything by hand.

    postgres     the server from a wheel -> a running Postgres under the home folder
    processes    a command -> a child that outlives us, and that `stop` finds again
    airflow      the checkout -> Airflow's four processes on that Postgres
    demo         settings -> all of it, and one run from the archive to a champion

Everything is kept below one home folder; deleting it forgets everything. Production uses none of this.
"""

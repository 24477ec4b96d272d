"""The archive -> versioned records and verified files, in passes.

    poll         one request: the number of records, and the newest
    append       what is newer than last time
    reconcile    counts by id prefix: what became public late, what is gone
    sweep        a share of all records, read again: what was edited
    check_files  a share of all files, checked: what was replaced
    fetch        the files of all these records

Each pass is a function that can be killed at any moment and repeated: it continues from what it committed.
"""

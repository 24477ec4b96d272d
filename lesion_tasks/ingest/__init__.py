"""The archive -> versioned records and verified files, in passes.

    poll         one question: how large, how new
    append       what is newer than last time
    reconcile    counts by id prefix: what became public late, what is gone
    sweep        a share of everything, read again: what was edited
    check_files  a share of all files, asked for: what was replaced
    fetch        the files of all of them

Each pass is a function that can be killed at any moment and repeated: it goes on from what it committed.
"""

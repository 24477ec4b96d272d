"""Bucket and database looked after: what is altered or lost, what nothing needs any more, how large they are."""

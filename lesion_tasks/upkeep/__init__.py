"""Bucket and database looked after: what is altered or lost, what nothing needs any more, how big they are and will be."""

"""A collection of images -> a local server that speaks the ISIC Archive API, version 2.

For demos, tests and benchmarks: it serves the built-in synthetic archive or any download folder, with the quirks of
the real service's cursors, search language and error bodies.
"""

"""A bundle (everything known about one evaluation) -> the files that people read; a leaderboard -> the index page.

Pages need no script, font, server or network. Every value is escaped: titles and metadata come from the archive.
"""

"""Images -> the members of train, val and test: one immutable manifest for each split, and the page about its data."""

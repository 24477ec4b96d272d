"""Variant and manifest -> a stored model and keyed predictions."""

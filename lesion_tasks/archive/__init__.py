"""The outer door: where records and image files come from."""

"""Evaluations -> a decision with its reason, the champion, and what the champion says of a picture."""

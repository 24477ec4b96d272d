"""Evaluations -> a decision with its reason, the champion, and the champion's predictions for pictures."""

"""The champion and what arrived since its training data -> what has shifted, and how its figures hold."""

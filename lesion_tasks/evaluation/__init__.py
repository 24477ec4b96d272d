"""Training -> integrity checks, figures, report, leaderboard."""

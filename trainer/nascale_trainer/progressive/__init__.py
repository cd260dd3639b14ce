"""Training in stages: a loop that changes its settings while it runs, for any network."""

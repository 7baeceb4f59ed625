"""Does claimed privacy hold: lower bounds of epsilon, canaries, exact tests of noise, and of a run's files."""

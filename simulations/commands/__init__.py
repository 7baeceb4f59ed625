"""Commands of a simulation: demo, run, report, experiment, results."""

"""Small pages that run on this machine and answer nobody else."""

"""Simulated federations: patient-disjoint partitions, in-process and ``flwr run`` runtimes, the bundled sample."""

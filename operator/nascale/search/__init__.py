"""Multi-objective search: spaces, samplers, Pareto fronts, fidelities. Pure: no I/O, no clock."""

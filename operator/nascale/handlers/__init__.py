"""The only importer of kopf: wakes reconciles, nothing else."""

"""nascale: a Kubernetes operator for hardware-aware architecture search, scaling and progressive training."""

__version__ = "0.1.0"

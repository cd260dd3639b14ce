"""Latency-aware compound scaling: candidate vectors, scaled networks, what is measured next. Pure."""

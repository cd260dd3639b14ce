"""Latency-aware compound scaling."""

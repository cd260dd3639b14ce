"""Samplers: random, evolutionary, surrogate-based and Optuna's, behind ``nascale.search.sampler.Sampler``."""

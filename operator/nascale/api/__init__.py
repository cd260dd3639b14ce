"""Typed models of the kinds. ``crds/*.yaml`` are generated from them (``make generate``)."""

"""The data plane: builds, measures and trains candidates, and the small module for your own training code.

``load_work_order``, ``report`` and ``Metrics`` need no torch: they are what a container of your own uses.
"""

"""What operator and trainer say to each other: work order, report, architecture, metric names.

Everything here is data: pydantic models whose JSON schemas are published in ``docs/contract/``,
and names. Both sides import this package; it imports nothing of either.
"""

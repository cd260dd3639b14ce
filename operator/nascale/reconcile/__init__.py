"""Level-triggered decisions: ``plan(observed) -> actions and status``, one file per kind. Pure."""

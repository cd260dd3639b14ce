"""Schedules that are generated for the hardware: what is measured, predicted and chosen. Pure."""

"""Whole scripts: one run that is watched, or two that are compared."""

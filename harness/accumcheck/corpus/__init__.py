"""Loops and problems that ship: published, right, wrong, parallel; models and data."""

"""Data-parallel loops: launched on local ranks, joined into one reading, judged."""

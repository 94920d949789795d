"""A model of one's own: two runs in lockstep, their noise, the tolerance, coupling of samples."""

"""The probe's model, one run of a loop on it, and what the run showed."""

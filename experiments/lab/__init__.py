"""The workbench that all experiments share; it knows nothing of any of them."""

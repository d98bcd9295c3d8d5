"""From a run directory to a model bundle: `python -m export`."""

"""From a folder of good pictures to a run directory: `python -m train`."""

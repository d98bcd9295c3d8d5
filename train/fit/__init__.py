"""Fitting: the loops, and the statistics of the head."""

"""A bundle, what runs it, and what its scores mean."""

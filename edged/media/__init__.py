"""What pictures and signals are made of: bytes -> values, and results -> pictures for people."""

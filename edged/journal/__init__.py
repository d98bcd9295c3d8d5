"""The journal: one SQLite file, who writes it, who reads it, and what is done when it is damaged."""

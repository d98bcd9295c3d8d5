"""The daemon: what runs, in what order, and what is counted."""

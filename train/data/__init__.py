"""Good pictures and signals: found, checked, divided, copied and corrupted."""

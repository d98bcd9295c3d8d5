"""Where pictures come from: the Protocol that every source follows, and the table of their types."""

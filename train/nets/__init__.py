"""The networks, and the detector that is exported of them."""

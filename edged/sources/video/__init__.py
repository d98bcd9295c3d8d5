"""The video source: files, cameras and other streams, and the events in them."""

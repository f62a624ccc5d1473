"""GStreamer: everything that touches it. Import its modules only when a camera is opened."""

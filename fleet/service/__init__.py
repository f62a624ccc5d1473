"""Vigil as services of systemd: their units, and putting them in place."""

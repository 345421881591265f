"""Sweeps: Ray Tune over a stream's settings, one conductor underneath."""

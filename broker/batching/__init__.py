"""Runs batches: one broker process leads, and any other goes on from where it came to."""

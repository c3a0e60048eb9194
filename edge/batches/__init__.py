"""Batches for both front ends: made, watched, steered and read. Who runs them is the broker."""

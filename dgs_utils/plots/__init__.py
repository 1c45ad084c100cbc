"""Figures: every function takes arrays, frames or images and returns a matplotlib figure."""

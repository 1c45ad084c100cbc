"""Classifiers: scorers of difficulty, the networks that are trained on distilled sets, and their training."""

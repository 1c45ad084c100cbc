"""Classifiers: the judge of difficulty, the networks that distilled sets train, and how they are trained."""

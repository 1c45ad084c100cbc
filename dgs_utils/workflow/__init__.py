"""Grids of notebooks: an experiment file is planned into nodes, and each node is one notebook's run."""

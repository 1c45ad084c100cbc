"""Image files: sets of them, their classes, where data sets come from, and how pixels are read."""

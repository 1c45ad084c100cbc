"""What the rows of finished trainings say: comparisons, sources of noise, tables, published values."""

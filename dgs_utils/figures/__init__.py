"""Stage 07: figures and tables of finished runs.

`from_rows` computes them from rows of results alone, `from_folders` reads what lies in folders, and `report` shows them
one by one in notebook 07.
"""

from dgs_utils.figures.from_folders import claim_inputs, describe_set, generator_shares, scorer_errors, sets_by_method
from dgs_utils.figures.from_rows import figures_of, scorer_confusion, tables_of
from dgs_utils.figures.report import Report

__all__ = ["Report", "claim_inputs", "describe_set", "figures_of", "generator_shares", "scorer_confusion",
           "scorer_errors", "sets_by_method", "tables_of"]

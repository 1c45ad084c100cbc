"""What a table's cell averages: runs that agree in everything but pool, selection and training seed, and no others."""

import statistics

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tables import BASE

from dgs_utils.results.summaries import summarise

APART = {"prepare_seed": ["0", "1"], "fine_tune_seed": ["0", "1"], "test_list": ["a", "b"], "image_size": [224, 64],
         "split": ["imagenet", "fastai"], "epoch_factor": [1.0, 0.5], "teacher": ["", "t"], "features": ["", "f"]}
REPEATED = ("pool_seed", "selection_seed", "training_seed")
ROW = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in APART.items()}
                            | {name: st.integers(0, 2) for name in REPEATED} | {"best": st.floats(0, 100)})


@settings(max_examples=25, deadline=None)
@given(st.lists(ROW, min_size=2, max_size=20))
def test_a_cell_holds_runs_that_differ_in_their_seeds_alone(found):
    cells = {}
    for row in found:
        cells.setdefault(tuple(row[name] for name in APART), []).append(row)
    summary = summarise(pd.DataFrame([{**BASE, **row} for row in found])).to_dict("records")
    assert len(summary) == len(cells)
    for cell in summary:
        runs = cells[tuple(cell[name] for name in APART)]
        assert cell["best"] == pytest.approx(statistics.fmean(row["best"] for row in runs), abs=1e-9)
        counted = [cell[name] for name in ("pools", "selections", "trainings")]
        assert counted == [len({row[name] for row in runs}) for name in REPEATED]
        assert cell["n"] == len(runs)

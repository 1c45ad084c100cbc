"""Figures: every function takes arrays, frames or images and returns a matplotlib figure.

    from dgs_utils import plots
    plots.use_style()
    plots.contact_sheet(rows)
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "accuracy": ["accuracy_by_class", "accuracy_by_ipc", "accuracy_by_method", "accuracy_curves"],
    "bias": ["gain_over_shift"],
    "differences": ["differences_to"],
    "difficulty": [
        "compare_targets", "figure2", "figure4", "objective_map", "score_histograms", "sliders", "target_and_found",
        "transformed_histograms",
    ],
    "galleries": ["gallery", "gallery_slider", "mistakes", "sheet_of"],
    "generators": ["generator_shares"],
    "judge": ["judge_errors", "shift_of_originals"],
    "live": ["LiveFigure"],
    "rules": ["rule_curves", "rule_grid"],
    "sheets": ["contact_sheet"],
    "style": ["save", "use_style"],
    "training": ["training_curves"],
})

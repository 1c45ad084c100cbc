"""Figures: functions take arrays, frames or images, and return matplotlib figures.

    from dgs_utils import plots
    plots.use_style()
    plots.contact_sheet(rows)
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "accuracy": ["accuracy_by_ipc", "accuracy_by_method", "accuracy_curves"],
    "differences": ["differences_to", "gain_over_shift", "rule_curves", "rule_heatmap"],
    "score_distributions": ["score_histograms", "in_sample_shift", "target_bars"],
    "live": ["LiveFigure", "loss_curves", "training_curves"],
    "paper_figures": ["figure1", "figure2", "figure3", "figure4"],
    "contact_sheets": ["class_sheet", "contact_sheet", "gallery", "gallery_slider", "hardest_mistakes", "rows_by_set",
                       "rule_strips", "scored_images", "set_gallery"],
    "scorer_trust": ["difficulty_otherwise", "reliability_diagram"],
    "style": ["save", "use_style"],
    "thresholds": ["explore_thresholds"],
    "heatmaps": ["confusion_matrix", "objective_map", "table_heatmaps"],
})

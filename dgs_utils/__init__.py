"""Difficulty-guided sampling for generative dataset distillation.

    import dgs_utils as dgs
    sampler = dgs.DifficultyGuidedSampler(ipc=10).fit(original_scores, original_labels)

One module per stage, named like its notebook: `prepare`, `fine_tune`, `pool`, `difficulty`, `transform`, `sample`,
`evaluate`, `figures`, `condense`; below them the rooms. The names here are loaded when they are first used (SPEC 1), so
that `dgs --help` and planning stay instant.
"""

import os

import lazy_loader

# OpenMP threads that wait by spinning burn the cores that others need: on a shared two-core machine a training step
# took ten times as long. Those that sleep soon are woken for each small operation, which costs a small DiT all that a
# second core gains. So GNU's, which most builds of torch use, spin for some microseconds first: at 3,000 turns a step
# takes 43 ms, and 124 where another process has a core; at 1,000 turns 59 and 95, on one thread 58. They read it when
# torch is loaded, so it stands here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "selection.thresholds": ["log_transform", "search_thresholds"],
    "selection.targets": ["draw", "predefined_counts", "scale_counts"],
    "selection.difficulty_guided_sampler": ["DifficultyGuidedSampler"],
    "classifiers.measures": ["difficulty_scores"],
    "selection.coresets": ["herding", "k_center"],
    "condense": ["condense_set"],
    "difficulty.pipeline": ["DGSPipeline"],
    "checkup.report": ["check_pool"],
    "difficulty.scoring": ["score_images"],
    "difficulty.set_scores": ["rank_sets", "score_set", "score_trust"],
    "classifiers.teachers": ["teacher_of"],
    "evaluate": ["evaluate_set"],
    "figures": ["figures_of", "tables_of"],
    "fine_tune": ["fine_tune_model"],
    "params.subsets": ["SUBSETS"],
    "images.image_set": ["ImageSet"],
    "images.pixels": ["center_crop"],
    "prepare": ["train_dit"],
    "classifiers.scorer_training": ["train_scorer"],
    "results.comparisons": ["compare"],
    "classifiers.pretrained": ["open_scorer"],
    "classifiers.networks": ["build_network"],
    "classifiers.image_tensors": ["ImageTensors"],
    "diffusion.difffit": ["add_difffit", "fold", "trainable_parameters"],
    "diffusion.dit": ["DiT"],
    "diffusion.minimax": ["MinimaxCriterion"],
    "diffusion.process": ["NoiseProcess"],
    "store.session": ["stage"],
})

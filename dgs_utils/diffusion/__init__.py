"""Diffusion: the transformer, its fine-tuning, its noise process and its sampler."""

from dgs_utils.diffusion.difffit import add_difffit, fold, trainable_parameters
from dgs_utils.diffusion.dit import DIT_SIZES, DiT
from dgs_utils.diffusion.minimax import MinimaxCriterion
from dgs_utils.diffusion.process import NoiseProcess

__all__ = ["DIT_SIZES", "DiT", "MinimaxCriterion", "NoiseProcess", "add_difffit", "fold", "trainable_parameters"]

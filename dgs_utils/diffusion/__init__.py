"""Diffusion: the transformer, its fine-tuning, its noise process, its sampler and its autoencoders."""

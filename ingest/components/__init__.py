"""Circuits of attention heads and MLPs, found by patching: what a model without transcoders can still be asked.

Words are those of `atlas.causal_records`: clean and corrupted prompts, noising and denoising.
"""

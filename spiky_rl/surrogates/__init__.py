"""Surrogate gradients: d spike / d potential in the backward pass, one file each."""

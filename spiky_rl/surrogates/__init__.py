"""Surrogate gradients: the shape of d spike / d potential in the backward pass, one file each."""

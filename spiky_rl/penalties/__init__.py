"""What activity costs: terms beside the loss that a network is trained by."""

"""Learning rules: gradients and local rules that change weights.

A new one derives from `base.LearningRule`; agents name it under `network.learning`.
"""

"""Training of classifiers of event recordings."""

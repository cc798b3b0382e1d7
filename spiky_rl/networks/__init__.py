"""Network architectures: layers with K inner steps in each of T control steps."""

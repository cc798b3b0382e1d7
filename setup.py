"""Which packages ship. All else stands in pyproject.toml, which has no way to add the mapped folders to a search."""

from setuptools import find_packages, setup

# agents/, tasks/, spaces/ and policies/ hold YAML, and policies/ weights. They ship inside the package, never as top-level
# packages; `spiky_rl.config.registry.data_dir` finds them in a checkout too.
DATA = {
    "spiky_rl.agents": "agents",
    "spiky_rl.tasks": "tasks",
    "spiky_rl.spaces": "spaces",
    "spiky_rl.policies": "policies",
}

setup(packages=[*find_packages(include=["spiky_rl", "spiky_rl.*"]), *DATA], package_dir=DATA)

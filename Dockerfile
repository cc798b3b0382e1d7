# An image with spiky_rl and Gymnasium's tasks, or with Isaac Lab:
#   docker build -t spiky_rl .
#   docker build -t spiky_rl:isaaclab --build-arg EXTRAS=isaaclab,skrl .
#   docker build -t spiky_rl:cuda --build-arg EXTRAS=isaaclab,skrl,cuda --build-arg TORCH=auto \
#     --build-arg BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04 .
#   docker run --rm spiky_rl play --task CartPole-v1 --checkpoint pretrained --device cpu
#   docker run --rm --gpus all spiky_rl:cuda train --task Isaac-Ant --agent lif_ppo
ARG BASE=ubuntu:24.04
FROM ${BASE}

ARG EXTRAS=gymnasium,skrl
# cpu: PyTorch's CPU build; auto: the build of PyPI, with CUDA
ARG TORCH=cpu

# the compiler is for the kernels, which are compiled at their first use; the graphics libraries for films
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
       ca-certificates curl g++ git libegl1 libgl1 libgles2 libosmesa6 python3.12 python3.12-dev python3.12-venv \
    && rm -rf /var/lib/apt/lists/*

RUN python3.12 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir uv && python3.12 -m venv /opt/spiky
WORKDIR /opt/spiky_rl
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE THIRD_PARTY.md CHANGELOG.md requirements.lock ./
COPY spiky_rl spiky_rl
COPY agents agents
COPY tasks tasks
COPY spaces spaces
COPY policies policies
COPY isaaclab_mujoco isaaclab_mujoco
RUN case "${EXTRAS}" in *isaaclab*) native=./isaaclab_mujoco ;; *) native= ;; esac \
    && case "${TORCH}" in auto) backend= ;; *) backend="--torch-backend ${TORCH}" ;; esac \
    && /opt/uv/bin/uv pip install --python /opt/spiky/bin/python --no-cache --constraint requirements.lock ${backend} ${native} ".[${EXTRAS}]"

# runs and compiled kernels belong to the user of the container
RUN useradd --create-home spiky
USER spiky
WORKDIR /home/spiky
ENTRYPOINT ["/opt/spiky/bin/spiky"]
CMD ["--help"]

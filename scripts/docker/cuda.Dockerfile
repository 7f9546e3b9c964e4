# syntax=docker/dockerfile:1
# Training on NVIDIA GPUs; x86_64 and arm64. In the toolkit's folder:
#   docker build -f scripts/docker/cuda.Dockerfile -t finetune:cuda .
#   docker run --rm --init --gpus all --ipc host -v "$PWD/runs:/runs" finetune:cuda \
#     accelerate launch --config_file scripts/accelerate/ddp.yaml scripts/train.py RECIPE
# The base is Docker's official Python image (hub.docker.com/_/python): Python 3.11 is what constraints.txt was tested with, and
# CUDA 13 and NCCL come with torch's own wheel, so the host needs the driver (580 or newer) and NVIDIA's container toolkit only.
# An older driver: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE}

# What NVIDIA's container toolkit looks for.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

# triton compiles with gcc when a recipe sets torch_compile. Debian keeps only the newest build of a package, so it is not pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

ARG UID=1000
RUN useradd --uid "$UID" --create-home finetune && install -d -o finetune -g finetune /runs

WORKDIR /opt/finetune
COPY constraints.txt ./
# The largest layer, which changes with torch only. An index of PyTorch's has torch, but not the tested versions of what it needs.
ARG TORCH_INDEX=""
RUN if [ -n "$TORCH_INDEX" ]; then \
      pip install --no-deps --index-url "$TORCH_INDEX" "torch==$(sed -n 's/^torch==//p' constraints.txt)"; \
    fi \
    && pip install -c constraints.txt "torch==$(sed -n 's/^torch==//p' constraints.txt)"

# What the toolkit needs, without its code: this layer changes with pyproject.toml and constraints.txt only.
ARG EXTRAS=gguf,llamacpp,trackers,parquet,excel,hub,modelscope,quantized,screen,retrieval,optim,zstd
COPY pyproject.toml ./
COPY finetune/__init__.py finetune/
COPY scripts/build_packs.py scripts/
RUN touch README.md LICENSE \
    && pip install -c constraints.txt --no-build-isolation -e ".[$EXTRAS]"

COPY . .
# Recipes write to runs/, which is the mounted folder; the code is root's and read-only.
RUN ln -s /runs runs && chmod -R a+rX . && python -m compileall -q finetune

USER $UID
CMD ["finetune", "--help"]

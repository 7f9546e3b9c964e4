# syntax=docker/dockerfile:1
# Training on Ascend; x86_64 and arm64. In the toolkit's folder, for Atlas A2 (910B) and for Atlas A3:
#   docker build -f scripts/docker/ascend.Dockerfile -t finetune:ascend-a2 .
#   docker build -f scripts/docker/ascend.Dockerfile --build-arg CHIP=a3 -t finetune:ascend-a3 .
# Both architectures at once: docker buildx build --platform linux/amd64,linux/arm64 ... How to run it: docs/ascend.md.
# Tags of the base are CANN-CHIP-OS-PYTHON (github.com/Ascend/cann-container-image, its OVERVIEW.md; CHIP also 910 and 310p). 9.1.0
# for 910b and a3 is what vllm-ascend's own Dockerfiles start from. torch_npu 2.13.0 belongs to CANN 9.2.0 and is marked as
# compatible with 9.1 (TorchNPU 26.2.0's release notes): take CANN_VERSION=9.2.0 where that tag is to be had.
# The base's entry point sources CANN's set_env.sh; driver and devices are the host's, mounted when it runs.
ARG CANN_VERSION=9.1.0
ARG CHIP=910b
ARG OS=ubuntu22.04
ARG PYTHON=py3.11
FROM quay.io/ascend/cann:${CANN_VERSION}-${CHIP}-${OS}-${PYTHON}

# import torch without the driver must not fail (the toolkit imports torch_npu itself, as accelerate does).
ENV TORCH_DEVICE_BACKEND_AUTOLOAD=0 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

# A user of the group that owns the devices: docker run --group-add "$(getent group HwHiAiUser | cut -d: -f3)"
ARG UID=1000
RUN useradd --uid "$UID" --create-home finetune && install -d -o finetune /runs

# CANN's operator compiler uses packages of the base's Python, in versions of its own: they stay as they are underneath.
RUN python3 -m venv --system-site-packages /opt/venv
ENV PATH=/opt/venv/bin:$PATH

WORKDIR /opt/finetune
COPY constraints.txt ./
# The largest layer. The registry's usual torch brings CUDA along; this index has the one for CPUs, which torch_npu extends.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG TORCH_NPU=2.13.0
RUN pip install --no-deps --index-url "$TORCH_INDEX" "torch==$(sed -n 's/^torch==//p' constraints.txt)" \
    && pip install -c constraints.txt "torch==$(sed -n 's/^torch==//p' constraints.txt)" "torch_npu==$TORCH_NPU" "setuptools>=77"

# What the toolkit needs, without its code and without bitsandbytes, which has nothing for Ascend.
ARG EXTRAS=gguf,trackers,parquet,excel,hub,modelscope,screen,retrieval,zstd
COPY pyproject.toml ./
COPY finetune/__init__.py finetune/
COPY scripts/build_packs.py scripts/
RUN touch README.md LICENSE \
    && pip install -c constraints.txt --no-build-isolation -e ".[$EXTRAS]" torchao compressed-tensors lion-pytorch schedulefree

COPY . .
# Recipes write to runs/, which is the mounted folder; the code is root's and read-only.
RUN ln -s /runs runs && chmod -R a+rX . && python -m compileall -q finetune

USER $UID
CMD ["finetune", "--help"]

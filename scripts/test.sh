#!/usr/bin/env bash
# All checks on a fresh machine: install, lint, types, fast tests, then the slow ones (real model, several processes).
#   ./scripts/test.sh          everything but further combinations of what the slow tests hold
#   ./scripts/test.sh --fast   without the slow tests
#   ./scripts/test.sh --all    with those combinations
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh" dev
ruff check .
ruff format --check .
mypy
python -m pytest -m "not slow" -n 2 --dist loadfile # tests of a file share what they have made
if [ "${1:-}" != "--fast" ]; then
    ./scripts/get_llama_cpp_converters.sh # GGUF files are made and run in tests/serving
    ./scripts/get_torch_npu.sh || [ $? -eq 3 ] # 3: not to be had on this platform, which it has said; those tests are skipped
    [ "${1:-}" = "--all" ] && chosen="slow" || chosen="slow and not long"
    python -m pytest -m "$chosen" -n 2 --dist loadfile # many wait for processes
fi

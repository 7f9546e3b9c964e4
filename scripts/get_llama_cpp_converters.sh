#!/usr/bin/env bash
# llama.cpp's own converter scripts (convert_hf_to_gguf.py, convert_lora_to_gguf.py and what they import, MIT licence), out
# of the source package of llama_cpp_python on PyPI: 77 MB are downloaded, 3 MB kept, nothing is built.
#   ./scripts/get_llama_cpp_converters.sh [FOLDER]      default .converters; name it in export.targets[].converter
# Run again, it does nothing. PYTHON names the interpreter whose pip downloads (default python3, or .venv's).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
version=0.3.36
sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
folder="${1:-.converters}"
if [ "$(cat "$folder/.version" 2>/dev/null)" = "$version $sha256" ]; then
    exit 0
fi
if [ -e "$folder" ] && [ ! -e "$folder/.version" ]; then
    echo "$folder exists and is not this script's; name another folder" >&2
    exit 2
fi
python="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}"
mkdir -p "$(dirname "$folder")"
draft="$(mktemp -d "$folder.XXXXXX")"
trap 'rm -rf "$draft"' EXIT
echo "fetching llama.cpp's converters into $folder ..."
# pip checks the hash, and reads the package's name and version through its build backend; nothing is compiled.
echo "llama_cpp_python==$version --hash=sha256:$sha256" > "$draft/requirements.txt"
"$python" -m pip download -q --disable-pip-version-check --no-deps --no-binary llama_cpp_python --require-hashes \
    -r "$draft/requirements.txt" -d "$draft/archive" 2> "$draft/pip.log" || { cat "$draft/pip.log" >&2; exit 1; }
mkdir "$draft/tree"
tar -xzf "$draft"/archive/*.tar.gz -C "$draft/tree" --strip-components=3 --no-same-owner --wildcards \
    '*/vendor/llama.cpp/convert_hf_to_gguf.py' '*/vendor/llama.cpp/convert_lora_to_gguf.py' \
    '*/vendor/llama.cpp/conversion' '*/vendor/llama.cpp/gguf-py/gguf' '*/vendor/llama.cpp/LICENSE'
echo "$version $sha256" > "$draft/tree/.version"
rm -rf "$folder"
mv "$draft/tree" "$folder"

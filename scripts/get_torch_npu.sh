#!/usr/bin/env bash
# The torch_npu wheel of constraints.txt (44 MB, 124 MB unpacked) and a CANN runtime on host memory, for tests/npu: our
# program on the real torch_npu without a card. In a folder of its own: installed into .venv, it would end every
# `import torch` of a machine without CANN.
#   ./scripts/get_torch_npu.sh      into .torch_npu: site/ (the wheel), cann/ (the runtime's libraries)
# Run again, it does nothing. PYTHON names the interpreter whose pip downloads (default python3, or .venv's).
# Ends with 3, and says why, where it can't be had: no wheel for this platform, no gcc.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=.torch_npu
source=tests/npu/cann/fake_acl.c
version="$(sed -n 's/^torch_npu==//p' constraints.txt)"
python="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}"
platform="$(uname -s) $(uname -m), Python $("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
stamp="torch_npu $version, $(sha256sum < "$source" | cut -c1-16), $platform"
if [ "$(cat "$folder/.version" 2>/dev/null)" = "$stamp" ]; then
    exit 0
fi
case "$platform" in
    "Linux x86_64, Python 3.1"[0-4] | "Linux aarch64, Python 3.1"[0-4]) ;;
    *) echo "torch_npu $version has wheels for Linux on x86_64 and aarch64, Python 3.10 to 3.14; this is $platform" >&2; exit 3 ;;
esac
command -v gcc > /dev/null || { echo "gcc is missing: it builds the CANN runtime that torch_npu is tested on" >&2; exit 3; }
if [ -e "$folder" ] && [ ! -e "$folder/.version" ]; then
    echo "$folder exists and is not this script's; move it away" >&2
    exit 2
fi
draft="$(mktemp -d "$folder.XXXXXX")"
trap 'rm -rf "$draft"' EXIT
if [ -d "$folder/site/torch_npu-$version.dist-info" ] && [[ "$(cat "$folder/.version")" = *"$platform" ]]; then
    mv "$folder/site" "$draft/site" # only the runtime is to be built again
else
    echo "fetching torch_npu $version into $folder ..."
    "$python" -m pip install -q --disable-pip-version-check --no-deps --only-binary :all: --no-compile \
        --target "$draft/site" "torch_npu==$version" 2> "$draft/pip.log" || { cat "$draft/pip.log" >&2; exit 1; }
fi
mkdir "$draft/cann"
gcc -shared -fPIC -O1 -o "$draft/cann/libascendcl.so" "$source"
for name in hccl acl_op_compiler ge_runner graph acl_tdt_channel; do # asked for by the wheel; all that is called is in the first
    gcc -shared -fPIC -o "$draft/cann/lib$name.so" -x c /dev/null \
        -Wl,--no-as-needed -L "$draft/cann" -lascendcl -Wl,-rpath,'$ORIGIN'
done
echo "$stamp" > "$draft/.version"
chmod 755 "$draft"
rm -rf "$draft/pip.log" "$folder"
mv "$draft" "$folder"

#!/usr/bin/env bash
# Writes constraints.txt anew: the newest set that the bounds in pyproject.toml and the pair below allow.
# torchvision cannot load beside another torch than its own ("operator torchvision::nms does not exist").
set -euo pipefail
cd "$(dirname "$0")/../.."
printf '%s\n' torch==2.15.0 torchvision==0.29.2 | "${UV:-.venv/bin/uv}" pip compile --no-config --universal \
    --python-version 3.11.4 --extra book --extra dev --extra export --extra cluster --quiet --upgrade --no-annotate --no-emit-index-url \
    --no-emit-find-links --custom-compile-command book/tools/lock.sh --constraint - pyproject.toml \
    --output-file constraints.txt "$@"

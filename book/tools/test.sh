#!/usr/bin/env bash
# What `make test` runs. Its arguments go to pytest. A failure of any part is the exit status.
set -uo pipefail
cd "$(dirname "$0")/../.."
status=0
.venv/bin/ruff check . || status=1
# nbval runs the committed notebooks again and compares the cells tagged nbval-check-output.
.venv/bin/python -m pytest --nbval-lax --nbval-current-env --nbval-kernel-startup-timeout 300 tests notebooks "$@" || status=1
echo "make test took $SECONDS s"
exit "$status"

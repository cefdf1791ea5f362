#!/usr/bin/env bash
# Build sdist and wheel, install the wheel into a clean environment, and run the tests against it, all by default:
#
#   [PYTHON=python3.13] scripts/check_wheel.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${PYTHON:-python}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet build
"$work/venv/bin/python" -m build --outdir "$work/dist" "$root"
ls -l "$work/dist"
"$work/venv/bin/pip" install --quiet "$(ls "$work"/dist/*.whl)[dev]"
mkdir "$work/checkout" # the tests and what they read, without the package
cp -r "$root"/{tests,docs,configs,scripts,pyproject.toml,.mkdocs.yml,LICENSE,README.md,CHANGELOG.md,Makefile} "$work/checkout"
cd "$work/checkout"
"$work/venv/bin/python" -c "import infprune; assert '$work/venv' in infprune.__file__, infprune.__file__"
PATH="$work/venv/bin:$PATH" "$work/venv/bin/python" -m pytest "$@"

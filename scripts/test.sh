#!/usr/bin/env bash
# Checks the project: ruff, mypy, pytest, in .venv, which is made where it is missing.
#
#   bash scripts/test.sh                     with the newest versions of everything
#   bash scripts/test.sh --frozen --torch    with the versions in constraints/ and PyTorch (what CI=true means on 3.11)
#   bash scripts/test.sh --refresh           writes constraints/ anew from the newest versions, then checks with them
#   bash scripts/test.sh --tests-only        pytest alone
#   bash scripts/test.sh -- -k cli           words after -- go to pytest
#
# PYTHON=/path/to/python and VENV=FOLDER choose the interpreter and the environment.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/venv.sh

venv=${VENV:-.venv}
frozen=${CI:+yes} torch=${CI:+maybe} refresh='' tests_only=''
while [ $# -gt 0 ]; do
  case $1 in
    --frozen) frozen=yes ;;
    --torch) torch=yes ;;
    --refresh) refresh=yes ;;
    --tests-only) tests_only=yes ;;
    --) shift; break ;;
    *) echo "scripts/test.sh: unknown option $1 (pytest's own go after --)" >&2; exit 2 ;;
  esac
  shift
done

make_venv "$venv" 3.11 3.12 3.13
version=$(venv_version "$venv")
# PyTorch without CUDA exists as this one build, for Python 3.11 alone.
[ "$torch" != maybe ] || [ "$version" != 3.11 ] || torch=yes
[ "$torch" != maybe ] || torch=''
[ -z "$refresh" ] || [ "$version" != 3.11 ] || torch=yes

install() {
  local extras=test
  [ -z "$torch" ] || extras=test,torch
  "$venv/bin/python" -m pip install --quiet --prefer-binary "$@" --editable ".[$extras]"
}

echo "Installing into $venv (Python $version${torch:+, with PyTorch}${frozen:+, frozen versions}) ..."
if [ -n "$refresh" ]; then
  install --upgrade --upgrade-strategy eager
  file=constraints/py${version/./}.txt
  {
    echo "# Versions that the tests run with on Python $version; refreshed on purpose by 'bash scripts/test.sh --refresh'."
    "$venv/bin/python" -m pip freeze --exclude-editable | sed 's/+cpu$//'
  } >"$file"
  echo "Wrote $file"
elif [ -n "$frozen" ]; then
  # shellcheck disable=SC2046  # two words or none
  install $(constraints_for "$venv")
else
  install
fi

if [ -z "$tests_only" ]; then
  # One command a line: 'set -e' overlooks what fails in the middle of an && list.
  echo "ruff ..."
  "$venv/bin/ruff" check .
  "$venv/bin/ruff" format --check .
  echo "mypy ..."
  "$venv/bin/mypy"
fi
# Half of a test's time is compiling, which one core does; more than four of JAX at once would fill a laptop's memory.
cores=$("$venv/bin/python" -c "import os; print(min(os.cpu_count() or 1, 4))")
echo "pytest, on $cores cores ..."
"$venv/bin/pytest" --numprocesses "$cores" "$@"

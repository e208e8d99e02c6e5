#!/usr/bin/env bash
# Installs jaxperturb into .venv and runs its main job: lesions of the bundled network, a table and three figures.
# Flags are passed on: bash scripts/quickstart.sh --draws=2
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/venv.sh
venv=${VENV:-.venv}

echo "1/2  Installing jaxperturb into $venv (a minute or two the first time) ..."
make_venv "$venv" 3.13 3.12 3.11
# shellcheck disable=SC2046  # two words or none
"$venv/bin/python" -m pip install --quiet --prefer-binary --editable . $(constraints_for "$venv")

echo "2/2  Running: jaxperturb sweep $*"
echo "     Every layer of a small AlexNet that reads handwritten digits is damaged in three ways, at eleven levels,"
echo "     five times each. Under three minutes on two cores; Ctrl-C keeps what is done, running again continues it."
"$venv/bin/jaxperturb" sweep "$@"

echo
echo "Results are in runs/alexnet-digits, unless a flag says otherwise: figures/, results.csv, results.sqlite."
echo "What else it can do:  $venv/bin/jaxperturb sweep --help"

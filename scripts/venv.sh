# Sourced by the other scripts: finds a Python and makes a virtual environment. Bash.

# find_python VERSION...: prints the path of an interpreter of one of these versions (3.11, say), the first that is there.
# $PYTHON decides where it is set.
find_python() {
  local version candidate
  for version in "$@"; do
    for candidate in ${PYTHON:-python3 "python$version" "$HOME/.pyenv/versions/$version".*/bin/python \
      "/usr/local/bin/python$version" "/opt/homebrew/bin/python$version"}; do
      # A shim of pyenv may be on the path and yet refuse to run, so ask the interpreter itself.
      if "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" 2>/dev/null; then
        "$candidate" -c "import sys; print(getattr(sys, '_base_executable', None) or sys.executable)"
        return 0
      fi
    done
  done
  printf 'Python %s is needed%s; install one, or set PYTHON=/path/to/python\n' \
    "$(printf '%s or ' "$@" | sed 's/ or $//')" "${PYTHON:+, and PYTHON=$PYTHON is none}" >&2
  return 1
}

# make_venv FOLDER VERSION...: makes a virtual environment with one of these Pythons, unless it is there already.
make_venv() {
  local folder=$1 python version
  shift
  if [ ! -x "$folder/bin/python" ]; then
    python=$(find_python "$@") || return 1
    printf 'Making %s with %s\n' "$folder" "$("$python" -V)" >&2
    "$python" -m venv "$folder" || return 1
  fi
  version=$(venv_version "$folder")
  case " $* " in
    *" $version "*) ;;
    *)
      printf '%s holds Python %s; expected %s: remove it, or set VENV=FOLDER\n' "$folder" "$version" "$*" >&2
      return 1
      ;;
  esac
}

# venv_version FOLDER: prints 3.11, say.
venv_version() {
  "$1/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'
}

# constraints_for FOLDER: prints pip's arguments that hold the versions the tests ran with, where there are such for this Python.
constraints_for() {
  local file="constraints/py$(venv_version "$1" | tr -d .).txt"
  [ ! -f "$file" ] || printf -- '--constraint %s\n' "$file"
}

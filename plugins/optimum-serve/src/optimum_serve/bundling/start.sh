#!/bin/sh
# Serve the models of this bundle. The first start installs the wheels into an environment of its own, without an index.
#
#   ./start.sh --port 9000       flags are those of `optimum-core serve`; OPTIMUM_SERVE_... and --config work as well
#   ./start.sh --install-only    install, and do not serve
#
# PYTHON names the interpreter; OPTIMUM_BUNDLE_ENV another place for the environment, where this one is read-only.
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-python3}
place=${OPTIMUM_BUNDLE_ENV:-$PWD/env}
"$python" -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "@PYTHON@")' || {
    echo "this bundle is for Python @PYTHON@, and $python is another: set PYTHON" >&2
    exit 1
}
if [ "$(cat "$place/complete" 2>/dev/null || true)" != "$PWD" ]; then
    "$python" check.py
    rm -rf "$place"
    "$python" -m venv --without-pip "$place"
    "$place/bin/python" "$(echo wheels/pip-*.whl)/pip" --disable-pip-version-check install --quiet --no-index \
        --no-cache-dir --find-links wheels --requirement requirements.txt
    printf %s "$PWD" > "$place/complete"
fi
if [ "${1:-}" = --install-only ]; then
    exit 0
fi
export HF_HUB_OFFLINE=1
exec "$place/bin/optimum-core" serve @MODELS@ "$@"

#!/usr/bin/env bash
# The check on a machine with CUDA, torch, lightning, transformers and sentence-transformers, and no network: the rest
# comes from the wheels of `make gpu-wheels`. Run in the root of the repository: benchmarks/gpu/bare.sh [OUT [STAGE …]]
set -euo pipefail
OUT=${1:-gpu-check}
shift || true
SITE=${SITE:-$(mktemp -d)}
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$SITE" "${WHEELS:-.whl}"/*.whl
ln -sfn "$PWD/conf" "$SITE/jemb_conf"
export PYTHONPATH="$PWD:$SITE" PYTHONUNBUFFERED=1 MINILM="${MINILM:-$PWD/${WHEELS:-.whl}/minilm}"
exec timeout "${SECONDS_AT_MOST:-560}" python3 -m benchmarks.gpu.check --out "$OUT" ${1:+--only "$@"}

#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in at most 8 minutes, from the project's root:
#     bash benchmarks/gpu.sh [STEP ...]            # the steps of benchmarks/gpu.py; all by default
# Results go to $OUT (benchmarks/results by default): gpu.json, written after each step, and what the steps write.
# PYTHON names an interpreter with requirements-dev.txt and requirements-cuda.txt installed (python3 by default).
set -euo pipefail
cd "$(dirname "$0")/.."
# numba-cuda finds the libraries of CUDA's compiler in wheels, or else under CUDA_HOME, which not every machine sets.
if [ -z "${CUDA_HOME:-}" ]; then
  nvcc="$(command -v nvcc || ls /usr/local/cuda*/bin/nvcc /opt/cuda*/bin/nvcc 2>/dev/null | head -1 || true)"
  [ -z "$nvcc" ] || export CUDA_HOME="$(dirname "$(dirname "$(readlink -f "$nvcc")")")"
fi
export MPLBACKEND=Agg PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" -m benchmarks.gpu --output "${OUT:-benchmarks/results}" "$@"

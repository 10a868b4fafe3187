#!/usr/bin/env bash
# Install the peers that benchmarks/ptq.py runs, each in a virtual environment of its own (about 12 GB in all), and
# the one of benchmarks/prune.py, which runs beside edgeopt's own torch: a folder for PYTHONPATH.
# Usage: benchmarks/peers/install.sh [folder, default benchmarks/peers/venvs]
set -euo pipefail
into=${1:-$(dirname "$0")/venvs}
mkdir -p "$into"
install() {  # name, packages
  local name=$1
  shift
  [ -x "$into/$name/bin/python" ] || python3 -m venv "$into/$name"
  "$into/$name/bin/pip" install --quiet "$@" || echo "$name could not be installed; the benchmark goes on without it"
}
install onnxruntime onnxruntime==1.32.* onnx sympy
install nncf nncf==3.4.0 onnx onnxruntime
install modelopt "nvidia-modelopt[onnx]==0.47.0" onnxruntime
install aimet aimet-onnx==2.42.0
python3 -m pip install --quiet --no-deps --target "$into/torch_pruning" torch-pruning==1.6.1 ||
  echo "torch-pruning could not be installed; the benchmark goes on without it"

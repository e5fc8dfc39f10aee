#!/bin/bash
# Removes from an image's packages what nothing there opens. Run: prune.sh SITE-PACKAGES
set -euo pipefail
cd "$1"
find . -depth -type d \( -name tests -o -name test \) -exec rm -rf {} +
rm -rf torch/bin torch/include torch/share/cmake ray/jars ray/dashboard/client ray/rllib/examples pyarrow/include
rm -rf pybullet_envs eglRenderer*.so
# The robots are mjcf/, what they stand on lies beside it.
find pybullet_data -mindepth 1 -maxdepth 1 -type d -not -name mjcf -exec rm -rf {} +
# Debugging symbols; pybullet's are nine tenths of it.
find . \( -name "pybullet*.so" -o -name "libtorch_cpu.so" \) -exec strip --strip-unneeded {} +

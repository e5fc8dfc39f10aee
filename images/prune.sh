#!/bin/bash
# Removes from an image's packages what nothing there opens. Run: prune.sh SITE-PACKAGES
set -euo pipefail
cd "$1"
find . -depth -type d \( -name tests -o -name test \) -exec rm -rf {} +
rm -rf torch/include torch/share/cmake ray/jars ray/dashboard/client ray/rllib/examples pyarrow/include
find torch/bin -type f -not -name torch_shm_manager -delete
rm -rf pybullet_envs eglRenderer*.so tensorboard_data_server/bin
rm -f pyarrow/*flight*.so*
# The robots are mjcf/, what they stand on lies beside it.
find pybullet_data -mindepth 1 -maxdepth 1 -type d -not -name mjcf -exec rm -rf {} +
# Symbols, which are nine tenths of pybullet; not of libraries that a wheel's maker has patched already.
find . -type f -name "*.so*" -size +300k -not -path "./*.libs/*" -not -path "./nvidia/*" -not -path "./triton/*" \
    -not -name "libtorch_cuda*" -exec strip --strip-unneeded {} +
find ray/core -type f -size +5M -exec strip --strip-unneeded {} +

#!/bin/bash
# Removes from an image's packages what nothing there opens. Run: prune.sh SITE-PACKAGES
set -euo pipefail
cd "$1"
find . -depth -type d \( -name tests -o -name test \) -exec rm -rf {} +
rm -rf torch/include torch/share/cmake ray/jars ray/dashboard/client ray/rllib/examples pyarrow/include
find torch/bin -type f -not -name torch_shm_manager -delete
rm -rf pybullet_envs eglRenderer*.so tensorboard_data_server/bin pygame/docs pygame/examples
rm -f pyarrow/*flight*.so*
# A wheel has no links: the library under each of its names. The name that others load is the one with the ABI's number.
rm -f pyarrow/libarrow_python*.so pyarrow/libarrow_python*.so.*.*
# The Python module has all of it built in; this is for other programs.
rm -f onnxruntime/capi/libonnxruntime.so.*
# The robots are mjcf/, what they stand on lies beside it; the rest is scenery.
find pybullet_data -mindepth 1 -maxdepth 1 -type d -not -name mjcf -exec rm -rf {} +
rm -f pybullet_data/{samurai_monastry,soccerball,duck}.*
# Sources of extension modules, and types for editors.
find . -type f \( -name "*.c" -o -name "*.cc" -o -name "*.cpp" -o -name "*.cu" -o -name "*.h" -o -name "*.hpp" \
    -o -name "*.pyx" -o -name "*.pxd" -o -name "*.pyi" -o -name "*.a" \) -delete
# Symbols, which are nine tenths of pybullet; not of libraries that a wheel's maker has patched already.
find . -type f -name "*.so*" -size +300k -not -path "./*.libs/*" -not -path "./nvidia/*" -not -path "./triton/*" \
    -not -name "libtorch_cuda*" -exec strip --strip-unneeded {} +
find ray/core -type f -size +5M -exec strip --strip-unneeded {} +

"""The GhostNet paper's tables: what it prints beside what is counted and measured here.

python -m benchmarks.paper vgg16 small-nets --device onnxruntime:cpu --out results
"""

"""How does a student leave for other programs?

`timm_folder` writes what timm loads, `onnx_graph` a graph, `preprocessing` how pictures must be prepared.

Imports `network`, `checkpoints` and `judging`.
"""

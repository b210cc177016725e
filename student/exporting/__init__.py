"""How does a student leave for other programs?

`timm_folder` writes what timm loads, `onnx_graph` a graph, `preprocessing` how pictures must be prepared, `model_card`
what people read first; `export_folder` is what they lie in.

Imports `network`, `checkpoints` and `judging`.
"""

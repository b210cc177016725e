"""One runnable module per stage of the graph, each a thin command over `pipeline`: see `dvc.yaml`."""

"""Which pictures does the embedded default learn from? `digit_scene` paints handwritten digits on crowded canvases."""

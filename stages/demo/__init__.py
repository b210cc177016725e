"""Which pictures are there to try the commands on?

`digit_scene` paints handwritten digits on crowded canvases, `price_chart` draws price charts with named patterns.
"""

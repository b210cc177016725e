"""What is in a picture's file, and how does it become pixels?

`images` decodes JPEG, PNG and WebP under limits, by one written policy for odd ones. The others make it cheap to decode
a part of a JPEG: `jpeg_tiling` writes restart markers into one without touching a coefficient, `jpeg_segments`
assembles the part that a crop needs, and `parts` shows it, or else the whole. They stand on `jpeg_markers` (what is in
a file), `jpeg_huffman` (its tables) and `jpeg_coefficients` (its scan).

Imports no other room.
"""

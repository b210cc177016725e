"""What is in a picture's file, and how does it become pixels?

`formats` is the table of what is read, and `images` decodes it under limits, by one written policy for odd pictures.
The others make it cheap to decode a part of a JPEG: `jpeg_tiling` writes restart markers into one without touching a
coefficient, `jpeg_segments` assembles the part that a crop needs, and `parts` shows it, or else the whole. They stand
on `jpeg_markers` (what is in a file), `jpeg_huffman` (its tables) and `jpeg_coefficients` (its scan).

Imports no other room.
"""

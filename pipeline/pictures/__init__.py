"""What is in a picture's file, and how does it become pixels?

`images` decodes JPEG, PNG and WebP under limits, by one written policy for odd ones.

Imports no other room.
"""

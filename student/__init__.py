"""The student: a DeiT trained from shards and stored labels, without ever running the teacher."""

"""The teacher, as a stage of anybody's WebDataset pipeline."""

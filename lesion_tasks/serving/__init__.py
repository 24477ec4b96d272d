"""A stored model and pictures -> predictions: of a few, of thousands as a job, and of the model in other formats."""

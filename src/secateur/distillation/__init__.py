"""Teachers' vectors, and the training that pulls a student towards them."""

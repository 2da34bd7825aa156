"""Large collections of made chunks, and a model that predicts the size and the speed of an index."""

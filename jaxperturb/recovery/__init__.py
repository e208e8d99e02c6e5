"""Training under and after damage: what retraining gives back, and where it changes the network."""

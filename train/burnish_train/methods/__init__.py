"""How a model is fine-tuned: which weights learn and how fast, and what is added to the loss."""

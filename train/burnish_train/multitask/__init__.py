"""One encoder that learns several tasks at once, each with a head of its own."""

"""Which settings to believe: what a choice between them rests on."""

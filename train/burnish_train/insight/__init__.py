"""What a model and its rows tell: explanations, audits, reports."""

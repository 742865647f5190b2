"""What a trained model looks at: for those who ask why it answers as it does.

>>> from burnish_train.insight.gradients import attribute  # doctest: +SKIP
"""

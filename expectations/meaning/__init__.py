"""Measure whether features, classes, boxes, relations and captions of a data set belong together.

A cheap reference model, solved in closed form, predicts one of them from another on a sample of the images. Values that
are predicted worse than in other parts of the data set, or only if the rows are shifted, show a fault that no check of
single values can see. `table.py` collects all measurements.
"""

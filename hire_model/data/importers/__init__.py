"""Importers: each turns one published layout into a `Source` of images, and `base.write` makes a data set of it."""

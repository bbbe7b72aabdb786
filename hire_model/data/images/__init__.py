"""From a folder of pictures to a data set: captions files, decoding, region extractors, splits, and the import itself."""

"""From a folder of pictures to a data set: captions, decoding, region extractors, splits, import."""

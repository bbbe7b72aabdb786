"""Make the relations of images from their regions: by geometry rules or by a learned prior."""

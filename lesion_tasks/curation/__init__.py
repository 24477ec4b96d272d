"""Records and files -> images: one label, one group, one verified file each, or a reject with a reason."""

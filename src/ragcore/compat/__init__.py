"""What ragcore needs of others beside their public face: packages that may be missing, private names, and its own import paths of before."""

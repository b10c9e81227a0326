"""Other conventions for describing data sets, and the digests that they hold."""

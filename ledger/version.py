"""The version of the product, read by packaging and by health."""

VERSION = "0.1.0"

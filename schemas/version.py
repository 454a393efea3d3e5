"""The version of this code, below everything that writes it into a store or a file."""

VERSION = "0.1.0"

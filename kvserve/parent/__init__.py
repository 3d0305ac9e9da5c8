"""Keeps house: starts the workers, watches them, replaces them, and takes everything down again."""

"""The parent process: starts, watches and replaces the workers, and takes everything down again."""

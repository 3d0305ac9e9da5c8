"""What a call consists of, the same for both clients. No I/O."""

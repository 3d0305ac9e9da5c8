"""How frames cross the kernel: queues and FIFOs. Knows bytes and descriptors, not requests."""
